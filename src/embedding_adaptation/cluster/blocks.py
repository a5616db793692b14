"""Texts and their vectors in parquet files of bounded size, each of which is written in full or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedding_adaptation.atomic import replacing_file
from embedding_adaptation.cluster.settings import MB, ClusterError, ClusterSettings
from embedding_adaptation.embedder.template import without_surrogates
from embedding_adaptation.identity import digest_of, texts_in_order

_FORMAT = 1  # incremented when vectors with the same fingerprint change
_FINGERPRINT, _REJECTED = b"fingerprint", b"rejected"
_SHOWN = 60


@dataclass(frozen=True)
class Row:
    """A text to embed.

    Attributes:
        row: Its place among all texts, from 0.
        id: Its id.
        text: The text; empty if there is a problem.
        problem: Why it cannot be embedded; empty if it can.
    """

    row: int
    id: str
    text: str
    problem: str = ""


@dataclass(frozen=True)
class Block:
    """Some texts and the places of their files.

    Attributes:
        folder: The folder of the job.
        number: Its place among the job's blocks, from 0.
        fingerprint: Identity of texts, ids, weights and strategies.
        rows: Number of texts.
    """

    folder: Path
    number: int
    fingerprint: str
    rows: int

    @property
    def texts(self) -> Path:
        """The texts: ``row``, ``id``, ``text``, ``problem``."""
        return self._file("texts")

    @property
    def vectors(self) -> Path:
        """The vectors: ``row``, ``id``, and lists of fixed size."""
        return self._file("vectors")

    @property
    def rejected(self) -> Path:
        """What could not be embedded, if anything: ``row``, ``id``, ``reason``."""
        return self._file("rejected")

    def is_finished(self) -> bool:
        """Whether its vectors are there and undamaged."""
        try:
            return pq.read_schema(self.vectors).metadata[_FINGERPRINT].decode() == self.fingerprint and bool(_read(self.vectors))
        except (OSError, KeyError, TypeError, pa.ArrowException):
            return False

    def _file(self, kind: str) -> Path:
        return self.folder / kind / f"part-{self.number:06d}.parquet"


def write_blocks(
    rows: Iterable[tuple[Any, Any]], folder: Path, identity: str, settings: ClusterSettings, *, first_row: int = 0
) -> Iterator[Block]:
    """Write texts in blocks, except those whose vectors are there.

    Args:
        rows: Ids and texts; a text that is none is marked, and set aside with its reason.
        folder: The folder of the job.
        identity: Identity of weights and strategies.
        settings: The sizes of blocks.
        first_row: Place of the first text among all.

    Yields:
        The blocks in the order of the texts.
    """
    for number, block in enumerate(_bounded(_checked(rows, first_row), settings)):
        content = texts_in_order(part for row in block for part in (row.id, row.text, row.problem))
        written = Block(folder, number, digest_of([_FORMAT, identity, block[0].row, content]), len(block))
        if not written.is_finished():
            written.vectors.unlink(missing_ok=True)
            columns = {name: [getattr(row, name) for row in block] for name in ("row", "id", "text", "problem")}
            _write(pa.table(columns), written.texts)
        yield written


def read_texts(block: Block) -> list[Row]:
    """The texts of a block."""
    return [Row(**row) for row in _read(block.texts).to_pylist()]


def write_vectors(block: Block, rows: Sequence[Row], vectors: dict[str, np.ndarray], rejected: Sequence[tuple[Row, str]]) -> None:
    """Write the vectors of a block, which is then finished.

    Args:
        block: The block.
        rows: The texts that were embedded.
        vectors: ``[n, D]`` by column.
        rejected: The others, each with the reason.
    """
    if rejected:
        columns = {"row": [row.row for row, _ in rejected], "id": [row.id for row, _ in rejected], "reason": [why for _, why in rejected]}
        _write(pa.table(columns), block.rejected)
    else:
        block.rejected.unlink(missing_ok=True)
    table = pa.table({"row": pa.array([row.row for row in rows], pa.int64()), "id": pa.array([row.id for row in rows], pa.string())})
    for name, matrix in vectors.items():
        values = pa.array(np.ascontiguousarray(matrix, np.float32).ravel())
        table = table.append_column(name, pa.FixedSizeListArray.from_arrays(values, matrix.shape[1]))
    marks = {_FINGERPRINT: block.fingerprint.encode(), _REJECTED: str(len(rejected)).encode()}
    _write(table.replace_schema_metadata(marks), block.vectors, plain=list(vectors))


def read_vectors(block: Block) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The vectors of a finished block.

    Returns:
        Places of the embedded texts among all, ``[n]``, and vectors ``[n, D]`` by column.

    Raises:
        ClusterError: If they are missing or damaged.
    """
    try:
        table = _read(block.vectors)
    except (OSError, pa.ArrowException) as error:
        msg = f"{block.vectors} is missing or damaged ({str(error).splitlines()[0]}); run again: only this block is computed again"
        raise ClusterError(msg) from error
    names = [name for name in table.column_names if name not in {"row", "id"}]
    return table["row"].to_numpy(), {name: _matrix(table[name].combine_chunks()) for name in names}


def rejected_rows(block: Block) -> int:
    """Number of texts of a finished block that could not be embedded."""
    return int(pq.read_schema(block.vectors).metadata[_REJECTED])


def _matrix(column: Any) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def _checked(rows: Iterable[tuple[Any, Any]], first: int) -> Iterator[Row]:
    for place, (name, text) in enumerate(rows, start=first):
        title = without_surrogates(str(name))
        if isinstance(text, str):
            yield Row(place, title, without_surrogates(text))
        else:
            shown = repr(text)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
            yield Row(place, title, "", f"the text is {shown} ({type(text).__name__}), not a string")


def _bounded(rows: Iterable[Row], settings: ClusterSettings) -> Iterator[list[Row]]:
    block: list[Row] = []
    size = 0
    for row in rows:
        weight = len(row.text.encode())
        if block and (len(block) >= settings.block_texts or size + weight > settings.block_mb * MB):
            yield block
            block, size = [], 0
        block.append(row)
        size += weight
    if block:
        yield block


def _read(path: Path) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read()


def _write(table: pa.Table, path: Path, plain: Sequence[str] = ()) -> None:
    """Write a table; the columns in ``plain`` are not compressed, which would cost time and save nothing."""
    compression = {name: "none" if name in plain else "zstd" for name in table.column_names}
    leaves = compression | {f"{name}.list.element": "none" for name in plain}
    with replacing_file(path) as work:
        pq.write_table(table, work, compression=leaves, use_dictionary=False, write_page_checksum=True)
