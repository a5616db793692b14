"""Errors about files of texts."""

from __future__ import annotations


class TextFileError(ValueError):
    """An unusable file of texts; the message names the file, the row or column, and the remedy."""


class MissingColumnError(TextFileError):
    """A file without the requested column.

    Attributes:
        column: The name of the requested column.
        available: The names of the file's columns.
    """

    def __init__(self, column: str, available: list[str]) -> None:
        self.column, self.available = column, available
        super().__init__(f"has no column {column!r}, only {', '.join(map(repr, available))}")
