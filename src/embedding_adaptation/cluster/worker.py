"""A worker: one model, which embeds block after block."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from embedding_adaptation.cluster.blocks import Block, Row, read_texts, rejected_rows, write_vectors
from embedding_adaptation.cluster.settings import ClusterError
from embedding_adaptation.embedder.device import DeviceName, DtypeName
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.weights import DecoderWeights

logger = logging.getLogger(__name__)

_PROBE = "a text"


@dataclass(frozen=True)
class EncodingJob:
    """What every worker needs to know; no text, no key.

    Attributes:
        weights: The weights, in a folder that every machine sees.
        columns: Strategies by name of the column of vectors.
        identities: Identity of the vectors by column, which a worker's must equal.
        device: The device of a worker.
        dtype: The number format.
        max_length: Longest sequence in tokens.
        batch_tokens: Tokens per batch.
        threads: CPU threads of a worker.
    """

    weights: DecoderWeights
    columns: Mapping[str, Strategy]
    identities: Mapping[str, str]
    device: str
    dtype: str
    max_length: int
    batch_tokens: int | None
    threads: int


class BlockEncoder:
    """Embeds blocks; Ray Data keeps one in each worker.

    Args:
        job: Weights and strategies.

    Raises:
        ClusterError: If this machine's weights or packages are not those of the run.
    """

    def __init__(self, job: EncodingJob) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        torch.set_num_threads(job.threads)
        self.job = job
        self.embedder = Embedder.load(
            job.weights,
            device=cast("DeviceName", job.device),
            dtype=cast("DtypeName", job.dtype),
            max_length=job.max_length,
            batch_tokens=job.batch_tokens,
        )
        for column, strategy in job.columns.items():
            if self.embedder.vectors_identity(strategy) != job.identities[column]:
                msg = (
                    f"the model on {platform.node()} is not that of the run: {job.weights.base} or the installed version of "
                    "embedding-adaptation differs there; make them the same on every machine"
                )
                raise ClusterError(msg)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """Embed blocks, except those that are finished.

        Args:
            batch: Index, folder, number, fingerprint and rows of each.

        Returns:
            The index of each, how many of its texts were set aside, and the seconds it took.
        """
        done: dict[str, list[Any]] = {"index": [], "rejected": [], "seconds": []}
        names = ("index", "folder", "number", "fingerprint", "rows")
        for index, folder, number, fingerprint, rows in zip(*(batch[name].tolist() for name in names), strict=True):
            start = time.perf_counter()
            block = Block(Path(folder), number, fingerprint, rows)
            if not block.is_finished():
                self._encode(block)
            done["index"].append(index)
            done["rejected"].append(rejected_rows(block))
            done["seconds"].append(time.perf_counter() - start)
        return done

    def _encode(self, block: Block) -> None:
        rows = read_texts(block)
        rejected = [(row, row.problem) for row in rows if row.problem]
        usable = [row for row in rows if not row.problem]
        vectors, usable, failed = self._vectors(usable)
        finite = np.logical_and.reduce([np.isfinite(matrix).all(axis=1) for matrix in vectors.values()])  # [n]
        rejected += failed + [(row, "its vector is NaN or infinite") for row, good in zip(usable, finite, strict=True) if not good]
        kept = [row for row, good in zip(usable, finite, strict=True) if good]
        write_vectors(block, kept, {name: matrix[finite] for name, matrix in vectors.items()}, sorted(rejected, key=lambda one: one[0].row))

    def _vectors(self, rows: Sequence[Row]) -> tuple[dict[str, np.ndarray], list[Row], list[tuple[Row, str]]]:
        """Vectors by column, the rows they belong to, and the rows that failed, each with its reason."""
        try:
            return self._embed([row.text for row in rows]), list(rows), []
        except (MemoryError, ClusterError):
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, one text must not stop the others
            self._embed([_PROBE])  # if the model itself fails, that is not the fault of a text
            logger.warning("a text of %d failed (%s); they are embedded one by one", len(rows), type(error).__name__)
        parts, good, failed = [self._embed([])], [], []
        for row in rows:
            try:
                parts.append(self._embed([row.text]))
            except Exception as error:  # noqa: BLE001
                failed.append((row, f"{type(error).__name__}: {error}"))
            else:
                good.append(row)
        return {name: np.concatenate([part[name] for part in parts]) for name in self.job.columns}, good, failed

    def _embed(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        columns = self.job.columns
        by_name = self.embedder.encode_strategies(texts, columns.values(), progress=False)
        return {column: by_name[strategy.name] for column, strategy in columns.items()}
