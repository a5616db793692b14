"""The user's texts as a catalog dataset, with errors that a person can act on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from embedding_adaptation.identity import digest_of, files_sha256, text_digest
from embedding_adaptation.texts.characters import COMPRESSIONS
from embedding_adaptation.texts.errors import MissingColumnError, TextFileError
from embedding_adaptation.texts.reading import TextFile
from embedding_adaptation.texts.stream import TextStream
from embedding_adaptation.wording import first_few

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

logger = logging.getLogger(__name__)

_READ_AT_ONCE = 64 << 20
# Of a compressed file, which is several times larger when it is read.
_READ_AT_ONCE_COMPRESSED = 8 << 20
_ROWS = 20_000


class TextsDataset(AbstractDataset[None, "pd.DataFrame"]):
    """Texts, one per row, from a file that :class:`~embedding_adaptation.texts.reading.TextFile` reads.

    Loads a frame of strings with the columns ``id``, ``text`` and, if ``label_column`` is set, ``label``. If that names several
    columns, these are the levels of a hierarchy, from coarse to fine: ``label`` is the first, and a column ``labels`` holds a list for each
    text, down to the last level that has a label. Rows without text are left out with a warning. It cannot be saved: raw texts are an
    input.

    Args:
        filepath: The file; its extension determines the format.
        text_column: Column of the texts; a ``.txt`` file has only this one.
        label_column: Column of the labels, for labelled texts, or several columns, from coarse to fine.
        id_column: Column of the ids, required in every row with a text; by default, the id is the row's number in the file, from 1.
        encoding: Encoding of text formats; by default, UTF-8, UTF-16 and, if unambiguous, cp1252 are detected.
        separator: Field separator of ``.csv`` and ``.tsv``: a character, or ``comma``, ``semicolon``, ``tab`` or ``pipe``;
            detected by default.
        metadata: Arbitrary values for other tools.

    Example:
        .. code-block:: yaml

            labelled_texts:
              type: embedding_adaptation.datasets.texts.TextsDataset
              filepath: data/01_raw/labelled_texts.csv
              label_column: label
    """

    def __init__(
        self,
        *,
        filepath: str,
        text_column: str | int = "text",
        label_column: str | int | Sequence[str | int] | None = None,
        id_column: str | int | None = None,
        encoding: str | None = None,
        separator: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path = Path(filepath).expanduser()
        labels = [] if label_column is None else [label_column] if isinstance(label_column, str | int) else label_column
        self._text_column = _name(text_column, "text_column")
        self._label_columns = [_name(one, "label_column") for one in labels]
        self._id_column = None if id_column is None else _name(id_column, "id_column")
        self._reading_options = {"encoding": encoding, "separator": separator}
        self._file = TextFile(self._path, encoding=encoding, separator=separator, rows=_ROWS)
        self.metadata = metadata

    def check_input(self) -> None:
        """Fail early: read the texts before the run starts.

        Raises:
            DatasetError: If they cannot be used; the message names the file, the row or column and the remedy.
        """
        self.load()

    def load(self) -> pd.DataFrame:
        """Read and check the texts.

        Raises:
            DatasetError: If they cannot be used; the message names the file, the row or column and the remedy.
        """
        with self._reading():
            raw = self._file.read(self._wanted())
        if raw.empty:
            self._refuse_empty(0)
        texts = self._select(raw)
        texts.attrs["name"] = self._path.name
        return texts

    def save(self, data: None) -> None:  # noqa: ARG002
        """Refuse: raw texts are an input."""
        msg = f"{self._path.name} is an input file and is never written to"
        raise DatasetError(msg)

    def content_identity(self) -> str:
        """What tells these texts from any others: the name and the content of the file, and how it is read."""
        read = [self._text_column, self._label_columns, self._id_column, self._reading_options]
        return digest_of([self._path.name, files_sha256([self._path]), read])

    def _select(self, raw: pd.DataFrame, first_row: int = 1, *, partial: bool = False) -> pd.DataFrame:
        """The rows with text; with ``partial``, checks that need the whole file are skipped."""
        import pandas as pd

        numbers = pd.Series(range(first_row, first_row + len(raw)), index=raw.index).astype(str)
        frame = pd.DataFrame({"id": raw[self._id_column] if self._id_column else numbers, "text": raw[self._text_column]})
        for level, column in enumerate(self._label_columns):
            frame[_level(level)] = raw[column]
        frame = frame.astype(object).where(frame.notna(), "").astype(str)
        empty = frame["text"].str.strip() == ""
        if empty.all() and not partial:
            self._refuse_empty(len(frame))
        if empty.any():
            logger.warning(
                "%s: %d of %d rows have no text and are left out (row %s)",
                self._path.name, empty.sum(), len(frame), first_few(numbers[empty]),
            )  # fmt: skip
        frame, numbers = frame[~empty], numbers[~empty]
        if self._label_columns:
            self._check_labels(frame, numbers)
            frame = _gather_levels(frame, len(self._label_columns))
        if self._id_column:
            self._check_ids(frame["id"], numbers)
        return frame.reset_index(drop=True)

    def _check_ids(self, ids: pd.Series, numbers: pd.Series) -> None:
        if (missing := ids.str.strip() == "").any():
            self._fail(
                f"column {self._id_column!r} has no id in {missing.sum()} of {len(ids)} rows (row {first_few(numbers[missing])}); "
                "fill the gaps, or omit id_column to use row numbers as ids"
            )
        if (doubled := ids.duplicated()).any():
            self._refuse_double(ids[doubled].iloc[0])

    def _refuse_double(self, one: str) -> NoReturn:
        self._fail(f"column {self._id_column!r} contains {one!r} more than once; make the ids unique")

    def _refuse_empty(self, rows: int) -> NoReturn:
        if not rows:
            self._fail("has no rows; give a file with at least one text")
        self._fail(f"column {self._text_column!r} is empty in all {rows} rows; name the column that contains the texts")

    def _check_labels(self, frame: pd.DataFrame, numbers: pd.Series) -> None:
        above = None
        for level, column in enumerate(self._label_columns):
            missing = frame[_level(level)].str.strip() == ""
            if level == 0 and missing.any():
                self._fail(
                    f"column {column!r} has no label in {missing.sum()} of {len(frame)} rows "
                    f"(row {first_few(numbers[missing])}); label or remove these rows"
                )
            if above is not None and (orphans := above & ~missing).any():
                self._fail(
                    f"column {column!r} has a label where {self._label_columns[level - 1]!r}, the level above, has none "
                    f"(row {first_few(numbers[orphans])}); name the columns from coarse to fine, or fill the gap"
                )
            if frame[_level(level)][~missing].nunique() < 2:  # noqa: PLR2004  a clustering has two sides
                only = repr(frame[_level(level)][~missing].iloc[0]) if (~missing).any() else "no label"
                self._fail(f"column {column!r} contains only one class, {only}; scoring a clustering needs at least two")
            above = missing

    def _wanted(self) -> list[str]:
        return [self._text_column, *self._label_columns, *([self._id_column] if self._id_column else [])]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except MissingColumnError as error:
            role = "text" if error.column == self._text_column else "label" if error.column in self._label_columns else "id"
            available = ", ".join(map(repr, error.available))
            self._fail(
                f"has no column {error.column!r} for the {role}s, only {available}; rename one, or set {role}_column in the catalog "
                "(on the command line: --params text_column=NAME or label_column=NAME, for the corpus corpus_column=NAME)"
            )
        except TextFileError as error:
            raise DatasetError(str(error)) from error

    def _fail(self, what: str) -> NoReturn:
        msg = f"{self._path} {what}"
        raise DatasetError(msg)

    def _exists(self) -> bool:
        return self._path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "text_column": self._text_column, "label_columns": self._label_columns}


class TextStreamDataset(TextsDataset):
    """Unlabelled texts as a :class:`~embedding_adaptation.texts.stream.TextStream`; takes what :class:`TextsDataset` takes, but no labels.

    A file of up to 64 MB (8 MB where it is compressed) is read at once and checked in full before any work starts. A larger one is read in
    pieces each time its texts are asked for, by the same reader with the same checks; at the start all its bytes are decoded, and the first
    piece of its rows is checked.
    """

    def check_input(self) -> None:
        """Fail early: read the texts, or the first piece of a large file.

        Raises:
            DatasetError: If they cannot be used; the message names the file, the row or column and the remedy.
        """
        next(iter(self.load().pieces()))

    def load(self) -> TextStream:  # type: ignore[override]
        """Read and check the texts, or prepare to stream them.

        Raises:
            DatasetError: If they cannot be used; the message names the file, the row or column and the remedy.
        """
        limit = _READ_AT_ONCE_COMPRESSED if self._path.suffix.lower() in COMPRESSIONS else _READ_AT_ONCE
        is_small = not self._path.is_file() or self._path.stat().st_size <= limit
        stream = TextStream.of(super().load()) if is_small else TextStream(self._stream)
        stream.name = self._path.name
        return stream

    def _stream(self) -> Iterator[pd.DataFrame]:
        first_row, has_texts = 1, False
        ids = _Distinct()
        pieces = self._file.pieces(self._wanted())
        while True:
            with self._reading():
                raw = next(pieces, None)
            if raw is None:
                break
            piece = self._select(raw, first_row, partial=True)
            first_row += len(raw)
            if self._id_column and (doubled := ids.add(piece["id"])) is not None:
                self._refuse_double(doubled)
            if len(piece):
                has_texts = True
                yield piece
        if not has_texts:
            self._refuse_empty(first_row - 1)


class _Distinct:
    """Detects repeated ids, with eight bytes of memory each."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, ids: pd.Series) -> str | None:
        """Add ids, and return the first that was added before, or ``None``."""
        import numpy as np

        digests = np.array([text_digest(one, 8) for one in ids], "S8").view("u8")
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            if (there := run[places] == digests).any():
                return str(ids.iloc[int(there.argmax())])
        self._runs.append(np.sort(digests))
        # Runs grow as powers of two, so that there are few and each id is sorted few times.
        while len(self._runs) > 1 and len(self._runs[-2]) <= len(self._runs[-1]):
            self._runs.append(np.sort(np.concatenate([self._runs.pop(), self._runs.pop()])))
        return None


def _name(column: str | int, setting: str) -> str:
    """A column's name, which YAML may have read as a number."""
    if isinstance(column, bool) or not isinstance(column, str | int):
        msg = f"{setting} is {column!r}, which YAML reads as {type(column).__name__}, not as a name; put the name in quotes"
        raise DatasetError(msg)
    return str(column)


def _level(number: int) -> str:
    return f"label {number + 1}" if number else "label"


def _gather_levels(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """The levels of a hierarchy as one column of lists."""
    if count == 1:
        return frame
    levels = [_level(number) for number in range(count)]
    frame["labels"] = [[label for label in row if label.strip()] for row in frame[levels].to_numpy().tolist()]
    return frame.drop(columns=levels[1:])
