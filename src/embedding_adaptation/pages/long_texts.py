"""How much of long texts a page holds, so that it stays small enough to open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_TEXT = 1000  # characters of a text that is shown in full
_SAMPLED = 200  # characters of each text by which to tell what a character takes


def cut(text: str, limit: int = LONGEST_TEXT) -> str:
    """A text, with an ellipsis in place of what is beyond ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def common_limit(texts: Sequence[str], budget: int) -> int | None:
    """The length in characters to which texts must be cut for all of them to fit into a budget.

    Short texts leave their share to long ones: the limit is the largest one for which the texts fit.

    Args:
        texts: The texts.
        budget: Bytes of all texts as a page's script holds them.

    Returns:
        At least 1; ``None`` if all texts fit as they are.
    """
    lengths = np.sort([len(text) for text in texts])
    if not len(lengths):
        return None
    beginnings = [text[:_SAMPLED] for text in texts]
    written = sum(len(json.dumps(beginning)) - 2 for beginning in beginnings)  # without the quotation marks
    left = budget / max(1.0, written / max(1, sum(map(len, beginnings))))  # characters
    if lengths.sum() <= left:
        return None
    for place, length in enumerate(lengths.tolist()):
        share = left / (len(lengths) - place)
        if length > share:
            return max(1, int(share))
        left -= length
    return None  # not reached: the sum is larger than the budget
