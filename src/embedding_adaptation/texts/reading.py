"""The strict reader for all tables that users provide."""

from __future__ import annotations

import itertools
import json
import logging
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from embedding_adaptation.texts.cells import SINGLE_SURROGATE, CellError, column_texts, text_of
from embedding_adaptation.texts.characters import COMPRESSIONS, Characters, open_text, survey
from embedding_adaptation.texts.errors import MissingColumnError, TextFileError
from embedding_adaptation.texts.separated import Rows, find_dialect, separator_named
from embedding_adaptation.wording import first_few

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_ROWS = 20_000
_CHARACTERS = 1 << 26
_ROWS_WEIGHED = 100
_JSON_BLOCK = 1 << 20
_WHITE = " \t\r\n"

Row = tuple[str | None, ...]


class TextFile:
    r"""Columns of a table in a file, as texts.

    All formats are read in pieces, whatever the size of the file, and checked alike: a field is never shifted, merged or dropped, and a
    value that could only be guessed to be text is rejected with its row. Column names are matched exactly, or else regardless of case if
    that is unambiguous.

    Args:
        path: The file. Its ending determines the format: ``.txt`` (one text per line), ``.csv``, ``.tsv``, ``.jsonl`` (one object per
            line), ``.json`` (an array of objects), each optionally followed by ``.gz`` or ``.zst``; ``.parquet``; ``.xlsx`` (the first
            visible sheet).
        encoding: Encoding of text formats; detected if not given, see :func:`~embedding_adaptation.texts.characters.survey`.
        separator: Field separator of ``.csv`` and ``.tsv``: a character, or a word such as ``tab``; detected if not given.
        rows: Maximum number of rows per piece.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text('Text;Label\n"one; two";a\n')
        >>> TextFile(path).read(["text", "label"]).to_dict("records")
        [{'text': 'one; two', 'label': 'a'}]
    """

    endings: ClassVar[tuple[str, ...]] = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx")
    """The supported endings of file names."""

    def __init__(self, path: Path, *, encoding: str | None = None, separator: str | None = None, rows: int = _ROWS) -> None:
        self.path = path
        self._encoding = encoding
        self._separator = separator
        self._rows = rows
        self._surveyed: tuple[tuple[int, int], Characters] | None = None
        self._warned: set[str] = set()

    @property
    def ending(self) -> str:
        """The ending that determines the format, in lower case: ``.csv`` for ``A.CSV.gz``."""
        compressed = self.path.suffix.lower() in COMPRESSIONS
        return (Path(self.path.stem) if compressed else self.path).suffix.lower()

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read all rows of some columns into memory, as strings or missing values.

        Raises:
            TextFileError: If the file cannot be used.
            MissingColumnError: If it lacks a column.
        """
        import pandas as pd

        pieces = list(self.pieces(columns))
        return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=list(columns), dtype=object)

    def pieces(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Read some columns piece by piece, so that memory holds only one piece.

        Raises:
            TextFileError: If the file cannot be used; at the latest when the row at fault is reached.
            MissingColumnError: If it lacks a column.
        """
        import pandas as pd

        names = list(dict.fromkeys(columns))
        with self._naming():
            for rows in self._batches(self._reader()(names)):
                yield pd.DataFrame(rows, columns=names)

    def _batches(self, rows: Iterator[Row]) -> Iterator[list[Row]]:
        batch: list[Row] = []
        size = 0
        while more := list(itertools.islice(rows, min(self._rows - len(batch), _ROWS_WEIGHED))):
            batch += more
            size += sum(map(len, filter(None, itertools.chain.from_iterable(more))))
            if len(batch) >= self._rows or size >= _CHARACTERS:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _reader(self) -> Callable[[list[str]], Iterator[Row]]:
        readers: dict[str, Callable[[list[str]], Iterator[Row]]] = {
            ".txt": self._read_lines,
            ".csv": self._read_separated,
            ".tsv": self._read_separated,
            ".jsonl": self._read_json_lines,
            ".json": self._read_json,
            ".parquet": self._read_parquet,
            ".xlsx": self._read_sheet,
        }
        if not self.path.exists():
            _fail("does not exist; check the path (a relative one starts at the project's root)")
        if not self.path.is_file():
            _fail("is a folder; give one of the files in it")
        if self.ending not in self.endings or self.ending not in readers:
            _fail(f"ends in {self.path.suffix!r}; choose from {', '.join(self.endings)}")
        if self.path.suffix.lower() in COMPRESSIONS and self.ending in {".parquet", ".xlsx"}:
            _fail(f"is a compressed {self.ending} file; decompress it")
        return readers[self.ending]

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Prefix error messages with the file's name."""
        try:
            yield
        except MissingColumnError as error:
            named = MissingColumnError(error.column, error.available)
            named.args = (f"{self.path} {error}",)
            raise named from None
        except TextFileError as error:
            msg = f"{self.path} {error}"
            raise TextFileError(msg) from None
        except PermissionError:
            msg = f"{self.path} cannot be read by this user; change its permissions"
            raise TextFileError(msg) from None
        except OSError as error:
            msg = f"{self.path} cannot be read: {error}; it may be damaged or incomplete: write or fetch it again"
            raise TextFileError(msg) from error

    def _characters(self) -> Characters:
        stat = self.path.stat()
        state = (stat.st_size, stat.st_mtime_ns)
        if self._surveyed is None or self._surveyed[0] != state:
            self._surveyed = (state, survey(self.path, self._encoding))
        characters = self._surveyed[1]
        self._warn(characters.warning)
        return characters

    def _warn(self, message: str) -> None:
        """Log a warning about the file, only once however often it is read."""
        if message and message not in self._warned:
            self._warned.add(message)
            logger.warning("%s %s", self.path.name, message)

    def _read_lines(self, columns: list[str]) -> Iterator[Row]:
        # Lines have no column name, so they stand for the first column requested.
        if len(columns) > 1:
            raise MissingColumnError(columns[1], columns[:1])
        characters = self._characters()
        with open_text(self.path, characters) as file:
            # Not splitlines(): it also splits at characters that occur inside texts, such as U+2028.
            for line in file:
                yield (line.removesuffix(characters.line_end).rstrip("\r"),)

    def _read_separated(self, columns: list[str]) -> Iterator[Row]:
        separator = separator_named(self._separator) if self._separator else None
        with open_text(self.path, self._characters()) as file:
            dialect, lines, warning = find_dialect(iter(file), "\t" if self.ending == ".tsv" else ",", separator)
            self._warn(warning)
            table = Rows(lines, dialect)
            rows = iter(table)
            header = next(rows, None)
            if header is None:
                return
            positions = [match_column(header, column) for column in columns]
            if len(positions) == 1:
                (position,) = positions
                yield from ((row[position],) for row in rows)
            else:
                yield from map(operator.itemgetter(*positions), rows)
            if table.suspects:
                self._warn(
                    f"has quoted texts in which each line looks like a row of its own: {first_few(table.suspects)}; if they are rows, an "
                    "opening quote is not closed"
                )

    def _read_json_lines(self, columns: list[str]) -> Iterator[Row]:
        def objects() -> Iterator[tuple[str, Any]]:
            with open_text(self.path, self._characters()) as file:
                row = 0
                for number, line in enumerate(file, start=1):
                    if not line.strip():
                        continue
                    row += 1
                    try:
                        yield f"row {row} (line {number})", _decoded(_DECODER.decode, line)
                    except json.JSONDecodeError as error:
                        _fail(f"line {number} is not JSON ({error.msg} at character {error.pos + 1}); write one object per line")
                    except CellError as error:
                        _fail(f"line {number} {error}")

        return self._select(objects(), columns, "write one object per line")

    def _read_json(self, columns: list[str]) -> Iterator[Row]:
        def objects() -> Iterator[tuple[str, Any]]:
            with open_text(self.path, self._characters()) as file:
                for number, value in enumerate(_elements(iter(lambda: file.read(_JSON_BLOCK), "")), start=1):
                    yield f"row {number}", value

        return self._select(objects(), columns, "write an array of objects")

    def _select(self, objects: Iterator[tuple[str, Any]], columns: list[str], remedy: str) -> Iterator[Row]:
        """The values of the requested columns; an object may lack some of them."""
        first: list[tuple[str, dict[str, Any]]] = []
        seen: dict[str, None] = {}
        for place, row in objects:
            if not isinstance(row, dict):
                _fail(f"{place} is {_json_kind(row)}, not an object; {remedy}")
            first.append((place, row))
            seen.update(dict.fromkeys(row))
            if len(first) == self._rows:
                break
        if not first:
            return
        names = [list(seen)[match_column(list(seen), column)] for column in columns]
        replaced: list[str] = []
        for place, row in itertools.chain(first, objects):
            if not isinstance(row, dict):
                _fail(f"{place} is {_json_kind(row)}, not an object; {remedy}")
            values = []
            for name in names:
                if name not in row and (other := next((key for key in row if _is_alike(key, name)), None)) is not None:
                    _fail(f"{place} has {other!r} where other rows have {name!r}; give the column one name in all rows")
                try:
                    value = text_of(row.get(name))
                except CellError as error:
                    _fail(f"{place}: column {name!r} {error}")
                if value is not None and not value.isascii() and SINGLE_SURROGATE.search(value):
                    value = SINGLE_SURROGATE.sub("\ufffd", value)
                    replaced.append(place)
                values.append(value)
            yield tuple(values)
        if replaced:
            places = list(dict.fromkeys(replaced))
            self._warn(f"has unpaired surrogates in {len(places)} rows, each replaced by U+FFFD ({first_few(places)})")

    def _read_parquet(self, columns: list[str]) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                available = file.schema_arrow.names
                names = [available[match_column(available, column)] for column in columns]
                before = 0
                for batch in file.iter_batches(batch_size=self._batch_rows(file), columns=names):
                    texts = [column_texts(batch.column(name), name, before) for name in names]
                    before += batch.num_rows
                    yield from zip(*texts, strict=True)
        except pa.ArrowException as error:
            if isinstance(error, OSError):
                _fail(f"is damaged ({str(error).splitlines()[0]}); write or fetch it again")
            _fail(f"is not a parquet file ({str(error).splitlines()[0]}); write it again")

    def _batch_rows(self, file: Any) -> int:
        """The number of rows that fill a piece, on average."""
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        widest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1.0)
        return max(1, min(self._rows, int(_CHARACTERS / max(widest, 1.0))))

    def _read_sheet(self, columns: list[str]) -> Iterator[Row]:
        from python_calamine import CalamineError, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

        try:
            book = CalamineWorkbook.from_path(str(self.path))
            visible = [
                sheet.name
                for sheet in book.sheets_metadata
                if sheet.visible == SheetVisibleEnum.Visible and sheet.typ == SheetTypeEnum.WorkSheet
            ]
            if not visible:
                _fail("has no visible worksheet; put the texts in one")
            sheets = [book.get_sheet_by_name(name) for name in visible]
        except CalamineError as error:
            _fail(f"is not an Excel workbook ({error}); save it as .xlsx, without a password")
        if others := [sheet.name for sheet in sheets[1:] if sheet.height]:
            self._warn(f"has {len(others) + 1} sheets; only the first, {visible[0]!r}, is read")
        sheet = sheets[0]
        if sheet.start is None:
            return
        first = sheet.start[0] + 1
        rows = itertools.islice(sheet.iter_rows(), sheet.start[0], None)  # iter_rows starts at row 1 even if that is empty
        header = [str(text_of(value) or "") for value in next(rows)]
        positions = [match_column(header, column) for column in columns]
        for number, row in enumerate(rows, start=first + 1):
            values = []
            for position in positions:
                try:
                    values.append(text_of(row[position]))
                except CellError as error:
                    _fail(f"row {number} of the sheet: column {header[position]!r} {error}")
            yield tuple(values)


def match_column(available: Sequence[str], name: str) -> int:
    """The position of the column of this name; failing an exact match, case and surrounding spaces are ignored.

    Raises:
        TextFileError: If several columns match.
        MissingColumnError: If no column matches.
    """
    exact = [position for position, other in enumerate(available) if other == name]
    matches = exact or [position for position, other in enumerate(available) if _is_alike(other, name)]
    if not matches:
        raise MissingColumnError(name, list(available))
    if len(matches) > 1:
        if exact:
            msg = f"has {len(matches)} columns named {name!r}; give each column a name of its own"
        else:
            msg = f"has no column {name!r}, but {' and '.join(repr(available[match]) for match in matches)}; name one of them exactly"
        raise TextFileError(msg)
    return matches[0]


def _is_alike(name: str, other: str) -> bool:
    return name.strip().casefold() == other.strip().casefold()


def _json_kind(value: Any) -> str:
    return {list: "a list", str: "a text or a number", type(None): "null", bool: "true or false"}[type(value)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        msg = f"has {names.count(duplicate)} values named {duplicate!r} in one object; give each a name of its own"
        raise CellError(msg)
    return values


def _constant(name: str) -> str | None:
    return None if name == "NaN" else name


def _fraction(text: str) -> str:
    """Keep a number with a point or an exponent as written, but drop the zeros of a whole one, as other formats do."""
    whole, _, zeros = text.partition(".")
    return whole.removeprefix("-" if whole == "-0" else "") if zeros and not zeros.strip("0") else text


# Numbers stay as written, so that an id keeps every digit. Only 1.0 becomes 1: many programs write that if a column has gaps.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=str, parse_float=_fraction, parse_constant=_constant)


def _decoded(decode: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return decode(*arguments)
    except RecursionError:
        msg = "is nested too deeply to be read; write objects that hold the texts themselves"
        raise CellError(msg) from None


def _elements(blocks: Iterable[str]) -> Iterator[Any]:
    """The elements of a JSON array that arrives in blocks.

    Raises:
        TextFileError: If it is not a JSON array.
    """
    source = iter(blocks)
    buffer, at, passed, row = "", 0, 0, 0

    def more() -> bool:
        nonlocal buffer, at, passed
        block = next(source, "")
        passed += at
        buffer, at = buffer[at:] + block, 0
        return bool(block)

    def next_sign() -> str:
        nonlocal at
        while True:
            while at < len(buffer) and buffer[at] in _WHITE:
                at += 1
            if at < len(buffer):
                return buffer[at]
            if not more():
                return ""

    if (sign := next_sign()) != "[":
        if sign:
            hint = "; if it has one object per line, rename it to end in .jsonl" if sign == "{" else ""
            _fail(f"is not an array of objects, but begins with {sign!r}{hint}")
        return
    at += 1
    if next_sign() == "]":
        at += 1
    else:
        while True:
            row += 1
            next_sign()
            while True:
                try:
                    value, end = _decoded(_DECODER.raw_decode, buffer, at)
                except json.JSONDecodeError as error:
                    position = error.pos
                    # An element cut off at the end of the buffer looks invalid until the rest has been read.
                    if len(buffer) - at < _CHARACTERS and more():
                        continue
                    _fail(f"row {row} is not JSON ({error.msg} at character {passed + position + 1}); write an array of objects")
                except CellError as error:
                    _fail(f"row {row} {error}")
                break
            yield value
            at = end
            sign = next_sign()
            at += 1
            if sign == "]":
                break
            if sign != ",":
                _fail(f"has no comma after row {row} (character {passed + at}); write an array of objects")
    if next_sign():
        _fail(f"continues after its array, at character {passed + at + 1}; write a single array of objects")


def _fail(message: str) -> NoReturn:
    raise TextFileError(message)
