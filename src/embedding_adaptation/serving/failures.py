"""How failures are logged: where they happened, without their message, which may quote a text."""

from __future__ import annotations

import logging
import traceback

logger = logging.getLogger(__name__)


class TextTooLongError(ValueError):
    """A text has more tokens than the model reads; the message says how many it may have."""


def log_failure(error: BaseException, during: str) -> None:
    """Log an error's type and place.

    Args:
        error: The error.
        during: What failed; contains no text.
    """
    logger.error("%s during %s:\n%s", type(error).__name__, during, "".join(traceback.format_tb(error.__traceback__)))
