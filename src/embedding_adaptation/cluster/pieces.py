"""Tables through a pool of workers, each in one file, and what they make of them in another, in the order of the tables."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm

from embedding_adaptation.atomic import replacing_file
from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.encoding import run_pool
from embedding_adaptation.cluster.settings import ClusterSettings
from embedding_adaptation.identity import digest_of, texts_in_order

logger = logging.getLogger(__name__)

Work = Callable[[pa.Table], pa.Table]

_FINGERPRINT = b"fingerprint"


@dataclass(frozen=True)
class Piece:
    """A table's file, and that of what a worker makes of it, both named after their contents.

    Attributes:
        folder: The folder of the job.
        number: The table's place, from 0.
        fingerprint: Identity of the table and of the work.
        rows: Its rows.
    """

    folder: Path
    number: int
    fingerprint: str
    rows: int

    @property
    def given(self) -> Path:
        """The table."""
        return self.folder / "given" / f"{self.fingerprint}.parquet"

    @property
    def made(self) -> Path:
        """What is made of it."""
        return self.folder / "made" / f"{self.fingerprint}.parquet"

    def is_finished(self) -> bool:
        """Whether it is there and undamaged."""
        try:
            return pq.read_schema(self.made).metadata[_FINGERPRINT].decode() == self.fingerprint and bool(_read(self.made))
        except (OSError, KeyError, TypeError, pa.ArrowException):
            return False


@dataclass(frozen=True)
class WorkingJob:
    """What every worker needs to know; no key.

    Attributes:
        make: Makes the work, once in every worker, from ``arguments``; a worker with a GPU has ``device="cuda"``.
        arguments: Its arguments by name.
        device: The device of a worker, if the work takes one.
        threads: CPU threads of a worker.
    """

    make: Callable[..., Work]
    arguments: Mapping[str, Any]
    device: str | None
    threads: int


class PieceWorker:
    """Works on pieces; Ray Data keeps one in each worker.

    Args:
        job: The work.
    """

    def __init__(self, job: WorkingJob) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        torch.set_num_threads(job.threads)
        self.work = job.make(**job.arguments, **({} if job.device is None else {"device": job.device}))

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """Work on pieces, except those that are finished.

        Args:
            batch: Index, folder, number, fingerprint and rows of each.

        Returns:
            The index of each.
        """
        names = ("index", "folder", "number", "fingerprint", "rows")
        for _, folder, number, fingerprint, rows in zip(*(batch[name].tolist() for name in names), strict=True):
            piece = Piece(Path(folder), number, fingerprint, rows)
            if not piece.is_finished():
                made = self.work(_read(piece.given))
                _write(made.replace_schema_metadata({_FINGERPRINT: fingerprint.encode()}), piece.made)
        return {"index": batch["index"].tolist()}


def work_through(
    tables: Iterable[pa.Table],
    make: Callable[..., Work],
    arguments: Mapping[str, Any],
    settings: ClusterSettings,
    *,
    name: str,
    identity: Sequence[Any],
    device: str | None = None,
    sees: Sequence[Path] = (),
    progress: bool = True,
) -> Iterator[pa.Table]:
    """Have workers make a table of each table.

    Only the names of files travel through Ray. If a worker or a machine dies, Ray gives its pieces to another one; what has been made is
    kept for a run that does the same again.

    Args:
        tables: The tables, of strings, bytes and numbers; consumed before the first result.
        make: Makes the work, as a function or class of a module; in every worker once.
        arguments: Its arguments by name.
        settings: The cluster.
        name: What is done, for the folder and the progress bar.
        identity: What the results depend on besides the tables, as values that :func:`~embedding_adaptation.identity.canonical` accepts.
        device: The device of a worker that needs one, which ``make`` then takes as ``device``; ``None`` works on CPU cores.
        sees: More paths that every machine must see.
        progress: Whether to show a progress bar.

    Yields:
        What is made of each table, in the order of the tables.

    Raises:
        ClusterError: If the cluster cannot be used or gives up; what has been made stays.
    """
    folder = settings.folder.absolute() / f"{name}-{digest_of([*identity])[:16]}"
    session.keep(folder)
    pieces = []
    for number, table in enumerate(tables):
        content = [texts_in_order(_strings(table[column])) for column in table.column_names]
        piece = Piece(folder, number, digest_of([*identity, table.column_names, content]), table.num_rows)
        if not piece.is_finished():
            _write(table, piece.given)
        pieces.append(piece)
    for number in _in_order(pieces, WorkingJob(make, arguments, device, settings.threads), settings, sees, name, progress=progress):
        made = _read(pieces[number].made)
        yield made.replace_schema_metadata(None)


def _in_order(
    pieces: Sequence[Piece], job: WorkingJob, settings: ClusterSettings, sees: Sequence[Path], name: str, *, progress: bool
) -> Iterator[int]:
    """Numbers of pieces in their order, each as soon as it and all before it are finished."""
    unfinished = {piece.number: piece for piece in pieces if not piece.is_finished()}
    ready = {piece.number for piece in pieces} - set(unfinished)
    following = 0
    with tqdm(total=sum(piece.rows for piece in pieces), unit="text", desc=f"{name} (cluster)", disable=not progress) as bar:
        bar.update(sum(pieces[number].rows for number in ready))
        for number in itertools.chain([None], run_pool(PieceWorker, job, unfinished, settings, sees) if unfinished else ()):
            if number is not None:
                ready.add(number)
                pieces[number].given.unlink(missing_ok=True)
                bar.update(pieces[number].rows)
            while following in ready:
                yield following
                following += 1


def _strings(column: pa.ChunkedArray) -> Iterator[str]:
    return (value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else str(value) for value in column.to_pylist())


def as_bytes(texts: Iterable[str]) -> pa.Array:
    """A column of texts as they are, even if half a surrogate pair is in them, which no string of Arrow's may hold."""
    return pa.array([text.encode("utf-8", "surrogatepass") for text in texts], pa.binary())


def as_texts(column: pa.ChunkedArray) -> list[str]:
    """The texts of :func:`as_bytes`."""
    return list(_strings(column))


def _read(path: Path) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read()


def _write(table: pa.Table, path: Path) -> None:
    with replacing_file(path) as work:
        pq.write_table(table, work, compression="zstd", write_page_checksum=True)
