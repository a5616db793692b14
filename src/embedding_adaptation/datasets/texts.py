"""The user's texts as a catalog dataset, with errors a person can act on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from embedding_adaptation.text_stream import TextStream

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

logger = logging.getLogger(__name__)

_SHOWN = 5
_READ_AT_ONCE = 64 << 20
_ROWS = 20_000


class TextsDataset(AbstractDataset[None, "pd.DataFrame"]):
    """Texts, one a row, from ``.txt`` (one a line), ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.

    Loads a frame of strings with the columns ``id``, ``text`` and, where ``label_column`` is set, ``label``. Where that names several
    columns, these are the levels of a hierarchy, from coarse to fine: ``label`` is the first, and a column ``labels`` holds a list for each
    text, down to the last level that has a label. Rows without text are left out with a warning. It has no save: raw texts are the user's
    own.

    Args:
        filepath: The file; its ending says the format.
        text_column: Column of the texts; a ``.txt`` file has only this one.
        label_column: Column of the labels, for labelled texts, or several columns, from coarse to fine.
        id_column: Column of the ids; without it a row's number in the file, counted from 1, is its id.
        encoding: Encoding of text formats. A byte-order mark is ignored.
        metadata: Free values for other tools.

    Example:
        .. code-block:: yaml

            labelled_texts:
              type: embedding_adaptation.datasets.texts.TextsDataset
              filepath: data/01_raw/labelled_texts.csv
              label_column: label
    """

    _endings: ClassVar[tuple[str, ...]] = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
    _other_encoding = ", or name its encoding in the catalog (for example encoding: cp1252)"

    def __init__(
        self,
        *,
        filepath: str,
        text_column: str = "text",
        label_column: str | Sequence[str] | None = None,
        id_column: str | None = None,
        encoding: str = "utf-8",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path = Path(filepath).expanduser()
        self._text_column = text_column
        self._label_columns = [label_column] if isinstance(label_column, str) else list(label_column or ())
        self._id_column = id_column
        self._encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else encoding
        self.metadata = metadata

    def check_input(self) -> None:
        """Fail early: read the texts once, before any work is built on them.

        Raises:
            DatasetError: If they cannot be used; the message names the file, the row or column and the remedy.
        """
        self.load()

    def load(self) -> pd.DataFrame:
        """Read and check the texts.

        Raises:
            DatasetError: If they cannot be used; the message names the file, the row or column and the remedy.
        """
        raw = self._read()
        if raw.empty:
            self._fail("has no rows; give a file with at least one text")
        self._check_columns(raw)
        texts = self._select(raw)
        texts.attrs["name"] = self._path.name
        return texts

    def _check_columns(self, raw: pd.DataFrame) -> None:
        columns = [("text", self._text_column), *(("label", column) for column in self._label_columns), ("id", self._id_column)]
        for role, column in columns:
            if column is not None and column not in raw.columns:
                there = ", ".join(map(repr, raw.columns))
                self._fail(
                    f"has no column {column!r} for the {role}s, only {there}; rename one, or set {role}_column in the catalog "
                    "(on the command line: --params text_column=NAME or label_column=NAME, for the corpus corpus_column=NAME)"
                )

    def save(self, data: None) -> None:  # noqa: ARG002
        """Refuse: raw texts are an input."""
        msg = f"{self._path.name} holds the user's own texts and is never written"
        raise DatasetError(msg)

    def _select(self, raw: pd.DataFrame, first_row: int = 1, *, partial: bool = False) -> pd.DataFrame:
        """The rows with text; what only the whole file can tell is left out where ``partial``."""
        import pandas as pd

        numbers = pd.Series(range(first_row, first_row + len(raw)), index=raw.index).astype(str)
        frame = pd.DataFrame({"id": raw[self._id_column] if self._id_column else numbers, "text": raw[self._text_column]})
        for level, column in enumerate(self._label_columns):
            frame[_level(level)] = raw[column]
        frame = frame.astype(object).where(frame.notna(), "").astype(str)
        empty = frame["text"].str.strip() == ""
        if empty.all() and not partial:
            self._fail(f"column {self._text_column!r} is empty in all {len(frame)} rows; name the column that holds the texts")
        if empty.any():
            logger.warning(
                "%s: %d of %d rows have no text and are left out (row %s)",
                self._path.name, empty.sum(), len(frame), _listed(numbers[empty]),
            )  # fmt: skip
        frame, numbers = frame[~empty], numbers[~empty]
        if self._label_columns:
            self._check_labels(frame, numbers)
            frame = _gather_levels(frame, len(self._label_columns))
        if self._id_column and frame["id"].duplicated().any():
            doubled = frame["id"][frame["id"].duplicated()].iloc[0]
            self._fail(f"column {self._id_column!r} holds {doubled!r} more than once; ids must be unique")
        return frame.reset_index(drop=True)

    def _check_labels(self, frame: pd.DataFrame, numbers: pd.Series) -> None:
        above = None
        for level, column in enumerate(self._label_columns):
            missing = frame[_level(level)].str.strip() == ""
            if level == 0 and missing.any():
                self._fail(
                    f"column {column!r} has no label in {missing.sum()} of {len(frame)} rows "
                    f"(row {_listed(numbers[missing])}); label these rows or remove them"
                )
            if above is not None and (orphans := above & ~missing).any():
                self._fail(
                    f"column {column!r} has a label where {self._label_columns[level - 1]!r}, the level above, has none "
                    f"(row {_listed(numbers[orphans])}); name the columns from coarse to fine, or fill the gap"
                )
            if frame[_level(level)][~missing].nunique() < 2:  # noqa: PLR2004  a clustering has two sides
                only = repr(frame[_level(level)][~missing].iloc[0]) if (~missing).any() else "no label"
                self._fail(f"column {column!r} holds one class only, {only}; scoring a clustering needs texts of two classes or more")
            above = missing

    def _read(self) -> pd.DataFrame:
        readers: dict[str, Callable[[], pd.DataFrame]] = {
            ".txt": self._read_txt,
            ".csv": lambda: self._read_separated(","),
            ".tsv": lambda: self._read_separated("\t"),
            ".jsonl": self._read_jsonl,
            ".parquet": self._read_parquet,
        }
        if not self._path.exists():
            self._fail("does not exist; check the path (a relative one starts at the project's root)")
        if not self._path.is_file():
            self._fail("is a folder; give one of the files in it")
        if self._path.suffix.lower() not in self._endings:
            self._fail(f"ends in {self._path.suffix!r}; give one of {', '.join(self._endings)}")
        with self._reading():
            return readers[self._path.suffix.lower()]()

    @contextmanager
    def _reading(self, *, whole: bool = True) -> Iterator[None]:
        import pandas as pd
        import pyarrow as pa

        try:
            yield
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            place = f" in line {line}" if whole else ""
            self._fail(
                f"is not {self._encoding.removesuffix('-sig')}: byte 0x{error.object[error.start]:02x}{place}; "
                f"save it as UTF-8{self._other_encoding}"
            )
        except LookupError:
            self._fail(f"cannot be read as {self._encoding!r}, which is no encoding Python knows; correct it in the catalog")
        except PermissionError:
            self._fail("may not be read by this user; change its permissions")
        except pd.errors.ParserError as error:
            reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
            self._fail(f"cannot be split into columns: {reason}; put texts that hold a separator or line break into quotes")
        except pa.ArrowInvalid as error:
            self._fail(f"is not a parquet file ({str(error).splitlines()[0]}); write it again")

    def _text(self) -> str:
        # The whole file at once: a wrong byte anywhere is found with its place, and before any row is used.
        return self._path.read_bytes().decode(self._encoding)

    def _read_txt(self) -> pd.DataFrame:
        import pandas as pd

        # Not splitlines(): it also splits at characters that occur inside texts, such as U+2028.
        lines = [line.rstrip("\r") for line in self._text().split("\n")]
        if lines and not lines[-1]:
            lines.pop()
        return pd.DataFrame({self._text_column: lines})

    def _read_separated(self, separator: str) -> pd.DataFrame:
        import io

        import pandas as pd

        try:
            return pd.read_csv(io.StringIO(self._text()), sep=separator, dtype=str, keep_default_na=False)
        except pd.errors.EmptyDataError:
            return pd.DataFrame()

    def _read_jsonl(self) -> pd.DataFrame:
        return self._json_rows(self._text().split("\n"), 0)

    def _json_rows(self, lines: list[str], before: int) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for number, line in enumerate(lines, start=before + 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                self._fail(f"line {number} is not JSON ({error.msg} at character {error.pos + 1}); write one object a line")
            if not isinstance(row, dict):
                self._fail(f"line {number} is {type(row).__name__}, not an object; write one object a line")
            rows.append(row)
        return pd.DataFrame(rows)

    def _read_parquet(self) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self._path)

    def _fail(self, what: str) -> NoReturn:
        msg = f"{self._path} {what}"
        raise DatasetError(msg)

    def _exists(self) -> bool:
        return self._path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "text_column": self._text_column, "label_columns": self._label_columns}


class TextStreamDataset(TextsDataset):
    """Unlabelled texts as a :class:`~embedding_adaptation.text_stream.TextStream`; takes what :class:`TextsDataset` takes, but no labels.

    A file of up to 64 MB is read at once and checked in full before any work starts. A larger one is read in pieces each time its texts are
    asked for; only its first piece is checked at the start.
    """

    def check_input(self) -> None:
        """Fail early: read the texts, or the first piece of a large file.

        Raises:
            DatasetError: If they cannot be used; the message names the file, the row or column and the remedy.
        """
        next(iter(self.load().pieces()))

    def load(self) -> TextStream:  # type: ignore[override]
        """Read and check the texts, or get ready to.

        Raises:
            DatasetError: If they cannot be used; the message names the file, the row or column and the remedy.
        """
        is_small = not self._path.is_file() or self._path.stat().st_size <= _READ_AT_ONCE
        stream = TextStream.of(super().load()) if is_small else TextStream(self._stream)
        stream.name = self._path.name
        return stream

    def _stream(self) -> Iterator[pd.DataFrame]:
        first_row, found = 1, False
        for raw in self._raw_pieces():
            self._check_columns(raw)
            piece = self._select(raw, first_row, partial=True)
            first_row += len(raw)
            if len(piece):
                found = True
                yield piece
        if not found:
            self._fail(f"column {self._text_column!r} is empty in all {first_row - 1} rows; name the column that holds the texts")

    def _raw_pieces(self) -> Iterator[pd.DataFrame]:
        import itertools

        import pandas as pd

        suffix = self._path.suffix.lower()
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            columns = [column for column in (self._text_column, self._id_column) if column]
            with self._reading(whole=False), pq.ParquetFile(self._path) as file:
                there = [column for column in columns if column in file.schema_arrow.names] or None
                for batch in file.iter_batches(batch_size=_ROWS, columns=there):
                    yield batch.to_pandas()
        elif suffix in {".csv", ".tsv"}:
            with (
                self._reading(whole=False),
                pd.read_csv(
                    self._path, sep="," if suffix == ".csv" else "\t", dtype=str, keep_default_na=False, encoding=self._encoding,
                    chunksize=_ROWS,
                ) as chunks,
            ):  # fmt: skip
                yield from chunks
        elif suffix in {".txt", ".jsonl"}:
            with self._reading(whole=False), self._path.open(encoding=self._encoding, newline="\n") as file:
                number = 0
                while lines := list(itertools.islice(file, _ROWS)):
                    if suffix == ".txt":
                        yield pd.DataFrame({self._text_column: [line.removesuffix("\n").rstrip("\r") for line in lines]})
                    else:
                        yield self._json_rows(lines, number)
                    number += len(lines)
        else:
            self._read()  # says which endings there are


class _Table(TextsDataset):
    """A file whose columns somebody else chooses."""

    _endings = (".csv", ".tsv", ".jsonl", ".parquet")
    _other_encoding = ""


def read_table(filepath: str) -> pd.DataFrame:
    """All rows and columns of a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file in UTF-8, as they are.

    Raises:
        DatasetError: If it cannot be read; the message names the file and the remedy.
    """
    return _Table(filepath=filepath)._read()  # noqa: SLF001  the class is this module's


def _level(number: int) -> str:
    return f"label {number + 1}" if number else "label"


def _gather_levels(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """The levels of a hierarchy as one column of lists."""
    if count == 1:
        return frame
    levels = [_level(number) for number in range(count)]
    frame["labels"] = [[label for label in row if label.strip()] for row in frame[levels].to_numpy().tolist()]
    return frame.drop(columns=levels[1:])


def _listed(numbers: pd.Series) -> str:
    more = ", ..." if len(numbers) > _SHOWN else ""
    return ", ".join(numbers.iloc[:_SHOWN]) + more
