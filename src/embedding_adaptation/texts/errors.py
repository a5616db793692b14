"""What is wrong with a file of texts."""

from __future__ import annotations


class TextFileError(ValueError):
    """A file of texts cannot be used; the message names the file, the row or column and the remedy."""


class MissingColumnError(TextFileError):
    """A file has no column of the wanted name.

    Attributes:
        column: The name that was looked for.
        there: The names that the file has.
    """

    def __init__(self, column: str, there: list[str]) -> None:
        self.column, self.there = column, there
        super().__init__(f"has no column {column!r}, only {', '.join(map(repr, there))}")
