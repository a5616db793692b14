"""A cache of the frozen lower layers' output, which never changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
import xxhash

from embedding_adaptation.embedder.batching import token_budget_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)


class LowerStates:
    """Cached hidden states by row: in memory up to a limit, then in a file up to another; the rest is recomputed each time.

    States keep the number format they were computed in, so caching does not change them.

    Args:
        compute: Computes the states ``[R, D]`` of rows.
        memory_mb: Maximum memory.
        disk_mb: Maximum file size for states that do not fit into memory.
        folder: Folder of the file; ``None`` writes none.
        batch_tokens: Tokens computed at once.

    Attributes:
        known: Gives the states of rows that were computed elsewhere, ``None`` for each of the others.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Sequence[int]]], list[torch.Tensor]],
        *,
        memory_mb: int,
        disk_mb: int = 0,
        folder: Path | None = None,
        batch_tokens: int = 1024,
    ) -> None:
        self.compute = compute
        self.batch_tokens = batch_tokens
        self.rows_computed = self.rows_read = self.tokens_computed = 0
        self.known: Callable[[Sequence[tuple[int, ...]]], list[torch.Tensor | None]] | None = None
        self._memory: dict[tuple[int, ...], torch.Tensor] = {}
        self._free = memory_mb << 20
        self._on_disk: dict[tuple[int, ...], tuple[int, tuple[int, int], int]] = {}
        self._path = None if folder is None or not disk_mb else folder / "lower_states.bin"
        self._disk_free = disk_mb << 20
        self._dtype: torch.dtype | None = None

    def of(self, rows: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        """States of rows, stored or computed, in their order."""
        missing = [row for row in dict.fromkeys(rows) if row not in self._memory and row not in self._on_disk]
        fresh: dict[tuple[int, ...], torch.Tensor] = {}
        if self.known is not None and missing:
            elsewhere = dict(zip(missing, self.known(missing), strict=True))
            fresh |= {row: states for row, states in elsewhere.items() if states is not None and not self._keep(row, states)}
            missing = [row for row, states in elsewhere.items() if states is None]
        for batch in token_budget_batches([len(row) for row in missing], self.batch_tokens):
            batch_rows = [missing[index] for index in batch]
            fresh |= {row: states for row, states in zip(batch_rows, self.compute(batch_rows), strict=True) if not self._keep(row, states)}
        self.rows_computed += len(missing)
        self.tokens_computed += sum(map(len, missing))
        self.rows_read += len(rows) - len(missing)
        return [fresh[row] if row in fresh else self._read(row) for row in rows]

    def close(self) -> None:
        """Empty the cache and remove the file."""
        self._memory.clear()
        self._on_disk.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _keep(self, row: tuple[int, ...], states: torch.Tensor) -> bool:
        size = states.numel() * states.element_size()
        if size <= self._free:
            self._free -= size
            self._memory[row] = states
            return True
        if self._path is None or size > self._disk_free or states.device.type != "cpu":
            return False
        self._dtype = states.dtype
        try:
            with self._path.open("ab") as file:
                start = file.tell()
                content = states.contiguous().view(torch.uint8).numpy().tobytes()
                file.write(content)
        except OSError as error:  # a full disk costs speed, not the run
            logger.warning("lower-layer states are no longer cached on disk: %s", error)
            self._disk_free = 0
            return False
        self._disk_free -= size
        self._on_disk[row] = (start, (states.shape[0], states.shape[1]), xxhash.xxh3_64_intdigest(content))
        return True

    def _read(self, row: tuple[int, ...]) -> torch.Tensor:
        if row in self._memory:
            return self._memory[row]
        start, shape, digest = self._on_disk[row]
        assert self._path is not None  # noqa: S101  something has been written there
        assert self._dtype is not None  # noqa: S101
        count = shape[0] * shape[1] * self._dtype.itemsize
        try:
            stored = np.fromfile(self._path, np.uint8, count=count, offset=start)
        except OSError:
            stored = np.empty(0, np.uint8)
        if xxhash.xxh3_64_intdigest(stored.tobytes()) != digest:
            logger.warning("the lower-layer states in %s are damaged and are computed again", self._path)
            del self._on_disk[row]
            self.rows_computed, self.tokens_computed = self.rows_computed + 1, self.tokens_computed + len(row)
            return self.compute([row])[0]
        return torch.from_numpy(stored).view(self._dtype).view(shape)  # [R, D]
