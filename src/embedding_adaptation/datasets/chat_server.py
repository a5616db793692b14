"""The key of a chat server, from Kedro's credentials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

_KEY = "api_key"
_PLACE = "chat_server: {api_key: ...} in conf/local/credentials.yml"


@dataclass(frozen=True)
class ChatServerKey:
    """A key that is never displayed.

    Attributes:
        value: The key, or ``None`` if the server needs none.
    """

    value: str | None = field(default=None, repr=False)


class ChatServerDataset(AbstractDataset[None, ChatServerKey]):
    """The key of a chat server: it comes from ``credentials`` only, and is never written.

    Args:
        credentials: ``api_key``; empty or missing if the server needs none.
        metadata: Arbitrary values for other tools.

    Raises:
        DatasetError: If the credentials contain anything else, or a key that cannot be sent. Messages never show a value.

    Example:
        .. code-block:: yaml

            chat_server:
              type: embedding_adaptation.datasets.chat_server.ChatServerDataset
              credentials: chat_server
    """

    def __init__(self, *, credentials: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None) -> None:
        credentials = credentials or {}
        unknown = sorted(str(name) for name in credentials if name != _KEY)
        if unknown:
            msg = f"unknown credentials for the chat server: {', '.join(map(repr, unknown))}; only {_KEY!r} is allowed: {_PLACE}"
            raise DatasetError(msg)
        self._key = ChatServerKey(_checked(credentials.get(_KEY)))
        self.metadata = metadata

    def load(self) -> ChatServerKey:
        """The key."""
        return self._key

    def save(self, data: None) -> None:  # noqa: ARG002
        """Refuse: keys are never written."""
        msg = "the key of the chat server comes from Kedro's credentials and is never written"
        raise DatasetError(msg)

    def content_identity(self) -> str:
        """Empty, whatever it is: a key says who asks, and not what is answered."""
        return ""

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {}


def _checked(key: object) -> str | None:
    """The key without surrounding white space.

    Raises:
        DatasetError: If it is not text, or not allowed in an HTTP header: the HTTP library's own message would show it.
    """
    if key is None:
        return None
    if not isinstance(key, str):
        msg = f"the {_KEY} of the chat server is of type {type(key).__name__}, not text; put it in quotes: {_PLACE}"
        raise DatasetError(msg)
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        msg = f"the {_KEY} of the chat server contains a line break or a non-ASCII character; copy it again: {_PLACE}"
        raise DatasetError(msg)
    return key or None
