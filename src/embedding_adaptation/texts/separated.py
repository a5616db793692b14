"""Rows of separated values, read strictly: no field is ever shifted, merged or dropped.

Python's ``csv`` in strict mode splits the lines according to RFC 4180, https://www.rfc-editor.org/rfc/rfc4180. It treats a quote inside an
unquoted field as a character and rejects one that closes a field too early, where pandas and pyarrow read on. Everything else that
distinguishes a well-formed table from a damaged one is checked here.
"""

from __future__ import annotations

import csv
import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from embedding_adaptation.texts.errors import TextFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}

# A longer field is treated as an unclosed quote, so that it does not fill the memory.
LONGEST_FIELD = 1 << 25
_SAMPLE = 1 << 20
_MOST_SUSPECTS = 10
# No decoder produces unpaired surrogates, so they can stand in for escaped characters until the fields are split.
_QUOTE, _BACKSLASH = "\udc22", "\udc5c"
# A quoted field, and one with a quote inside, as in RFC 4180.
_QUOTED = re.compile(r'".+"', re.DOTALL)
_DOUBLED = re.compile(r'".*"".*"', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\])')


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Attributes:
        separator: The character between two fields.
        quoting: ``standard``: a field may be quoted, and a quote inside is doubled; ``backslash``: a quote inside is escaped with a
            backslash; ``none``: quotes are ordinary characters.
    """

    separator: str
    quoting: Literal["standard", "backslash", "none"] = "standard"


def separator_named(name: str) -> str:
    r"""The separator given as a character, as ``\t``, or as a word: comma, semicolon, tab, pipe.

    Raises:
        TextFileError: If it is not a separator.
    """
    words = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "bar": "|"}
    separator = words.get(name.strip().lower(), name) if name.strip() else name
    if len(separator) != 1 or separator in '"\r\n\0\\ ':
        msg = f"cannot be split at {name!r}: a separator is one character, such as ; or |, or a word: comma, semicolon, tab, pipe"
        raise TextFileError(msg)
    return separator


def find_dialect(lines: Iterator[str], usual: str, separator: str | None = None) -> tuple[Dialect, Iterator[str], str]:
    """Determine from the first lines how the table is written.

    Args:
        lines: All lines, with their ends.
        usual: The separator that the file's name suggests.
        separator: The separator to use; without it, one that splits the header and every row into the same number of fields.

    Returns:
        The dialect, all lines again, and a warning or an empty string.
    """
    sample: list[str] = []
    size = 0
    for line in lines:
        sample.append(line)
        size += len(line)
        if size >= _SAMPLE:
            break
    is_whole = size < _SAMPLE
    separators = [separator] if separator else _possible_separators(sample, usual)
    outcomes = [_try(sample, candidate, is_whole=is_whole) for candidate in separators]
    # If none fits, the error that the first one causes later, when all lines are read, is the most helpful.
    dialect, warning = next((outcome for outcome in outcomes if outcome is not None), (Dialect(separators[0]), ""))
    return dialect, itertools.chain(sample, lines), warning


def _possible_separators(sample: list[str], usual: str) -> list[str]:
    """The separators that split the header, the usual one first, then by number of fields; the usual one if none does."""
    counts = {}
    for candidate in SEPARATORS:
        try:
            counts[candidate] = len(next(Rows(sample, Dialect(candidate)).raw(), []))
        except TextFileError:
            counts[candidate] = 0
    splitting = sorted((candidate for candidate in SEPARATORS if counts[candidate] > 1), key=lambda one: (one != usual, -counts[one]))
    return splitting or [usual]


def _try(sample: list[str], separator: str, *, is_whole: bool) -> tuple[Dialect, str] | None:
    standard, escaped, plain = (Dialect(separator, quoting) for quoting in ("standard", "backslash", "none"))
    rows, swallowed = _fitting_rows(sample, standard, is_whole=is_whole)
    unescaped, _ = _fitting_rows(sample, escaped, is_whole=is_whole) if any('\\"' in line for line in sample) else (None, False)
    if rows is not None:
        if unescaped is not None:
            _refuse_two_ways(rows, unescaped)
        return standard, ""
    if unescaped is not None:
        return escaped, "escapes quotes with backslashes and is read accordingly"
    # Unquoted prose would not have the same number of commas in every row, and a tab is hardly ever part of a text.
    if separator == "\t" and not swallowed:
        as_written, _ = _fitting_rows(sample, plain, is_whole=is_whole)
        if as_written and not any(_QUOTED.fullmatch(name) for name in as_written[0]) and not any(map(_has_doubled, as_written)):
            return plain, "has unpaired quotes; all quotes are read as part of the texts"
    return None


def _fitting_rows(sample: list[str], dialect: Dialect, *, is_whole: bool) -> tuple[list[list[str]] | None, bool]:
    """The rows of a sample, or ``None`` if it is malformed; and whether that is because a quoted field has swallowed rows."""
    table = Rows(sample, dialect)
    rows: list[list[str]] = []
    try:
        rows.extend(table)
    except TextFileError:
        # The sample may end inside a quoted field.
        return rows if table.is_open_at_end and not is_whole else None, table.has_swallowed
    return rows, False


def _refuse_two_ways(rows: list[list[str]], unescaped: list[list[str]]) -> None:
    """Reject a table that is well formed whether or not a backslash escapes a quote, but with different contents."""
    for number, (one, other) in enumerate(itertools.zip_longest(rows, unescaped)):
        if one is None or other is None or [_ESCAPED.sub(r"\1", value) for value in one] != other:
            msg = (
                f"row {number} has a quote after a backslash and can be read in two ways; double a quote inside a quoted text, "
                "and put a space after a backslash at its end"
            )
            raise TextFileError(msg)


@dataclass
class Rows:
    """The rows of a table, each checked against the header.

    Iteration yields the header and then every row, all of the same length.

    Args:
        lines: Lines with their ends.
        dialect: How the table is written.

    Attributes:
        is_open_at_end: Whether the lines ended inside a quoted field.
        has_swallowed: Whether reading stopped at a quoted field that seems to contain whole rows.
        suspects: Locations of the first quoted fields that may contain whole rows, if the separator is a comma.
    """

    lines: Iterable[str]
    dialect: Dialect
    is_open_at_end: bool = field(default=False, init=False)
    has_swallowed: bool = field(default=False, init=False)
    suspects: list[str] = field(default_factory=list, init=False)
    _number: int = field(default=-1, init=False)  # of the row; the header is 0
    _line: int = field(default=0, init=False)  # where the row begins

    def __iter__(self) -> Iterator[list[str]]:
        """Yield the header and the rows.

        Raises:
            TextFileError: At a row whose number of fields differs from the header's, a quote that is closed too early or never, or a
                carriage return outside quotes.
        """
        rows = self.raw()
        header = next(rows, None)
        if header is None:
            return
        yield header
        width = len(header)
        has_empty_end: bool | None = None
        for row in rows:
            if len(row) == width and not has_empty_end:
                has_empty_end = False
                yield row
            elif width > 1 and len(row) == width + 1 and not row[-1] and has_empty_end is not False:
                has_empty_end = True
                yield row[:-1]
            else:
                self._refuse_length(row, width, has_empty_end=bool(has_empty_end))

    def raw(self) -> Iterator[list[str]]:
        """Yield the header and the rows, of any length; empty lines are skipped.

        Raises:
            TextFileError: At a quote that is closed too early or never, or a carriage return outside quotes.
        """
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
        escaped = self.dialect.quoting == "backslash"
        quoting: Literal[0, 3] = csv.QUOTE_NONE if self.dialect.quoting == "none" else csv.QUOTE_MINIMAL
        lines = (_ESCAPED.sub(_stand_in, line) if "\\" in line else line for line in self.lines) if escaped else self.lines
        reader = csv.reader(lines, delimiter=self.dialect.separator, quoting=quoting, strict=True)
        self._line = 1
        try:
            for row in reader:
                if row:
                    self._number += 1
                    if reader.line_num > self._line and self._is_merged(row):
                        self._report_merged(reader.line_num)
                    yield [value.replace(_QUOTE, '"').replace(_BACKSLASH, "\\") for value in row] if escaped else row
                self._line = reader.line_num + 1
        except csv.Error as error:
            self._number += 1
            self._refuse_split(str(error), reader.line_num)

    @property
    def _place(self) -> str:
        return f"row {self._number} (line {self._line})" if self._number > 0 else f"the header (line {self._line})"

    def _refuse_length(self, row: list[str], width: int, *, has_empty_end: bool) -> None:
        name = SEPARATORS.get(self.dialect.separator, repr(self.dialect.separator))
        counted = f"{len(row)} {'field' if len(row) == 1 else 'fields'}"
        if has_empty_end:
            msg = f"{self._place} has {counted}, but the rows before have {width} plus an empty one at the end, and the header {width}"
        else:
            msg = f"{self._place} has {counted}, the header {width}"
        msg += f"; quote texts that contain a {name} or a line break, or specify another separator (corpus_separator for the corpus)"
        raise TextFileError(msg)

    def _refuse_split(self, reason: str, line: int) -> None:
        if "unexpected end of data" in reason:
            self.is_open_at_end = True
            msg = f"{self._place} opens a quote that is never closed; close it, or double a quote inside a quoted text"
        elif "expected after" in reason:
            msg = f"{self._place} continues after a closing quote, in line {line}; double a quote inside a quoted text"
        elif "field larger" in reason:
            msg = f"{self._place} has a text of over {LONGEST_FIELD:,} characters, probably because a quote is never closed; close it"
        elif "new-line" in reason:
            msg = f"{self._place} has a carriage return outside quotes; quote texts that contain a line break"
        else:
            msg = f"{self._place} cannot be split into fields: {reason}"
        raise TextFileError(msg)

    def _is_merged(self, row: list[str]) -> bool:
        """Whether a quoted field seems to have swallowed whole rows: each of its lines has the number of fields of a row."""
        lines = self.dialect.separator.join(row).split("\n")
        return len(row) > 1 and len(lines) > 1 and all(one.count(self.dialect.separator) == len(row) - 1 for one in lines)

    def _report_merged(self, line: int) -> None:
        """Reject the row; if commas separate, only record it, because ordinary prose contains commas, too."""
        if self.dialect.separator == ",":
            if len(self.suspects) < _MOST_SUSPECTS:
                self.suspects.append(self._place)
            return
        self.has_swallowed = True
        msg = (
            f"{self._place} has a quoted text that extends to line {line}, and each of these lines looks like a row of its own; "
            "write a quote that begins a text as three quotes and close it, or remove it"
        )
        raise TextFileError(msg)


def _has_doubled(row: list[str]) -> bool:
    return any(_DOUBLED.fullmatch(value) for value in row)


def _stand_in(match: re.Match[str]) -> str:
    return _QUOTE if match[1] == '"' else _BACKSLASH
