"""Vectors on disk or in memory, read one block at a time, so that memory use does not grow with their number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedding_adaptation.vectors.unit import unit_and_direction

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
# Rows of a file mapped at once: mapped pages count as memory of the process until they are released.
_WINDOW = 65_536
_SHOWN = 5


class VectorError(ValueError):
    """Vectors that cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class MappedArray:
    """A matrix in a file, mapped only while rows are read, so that its pages do not stay in memory.

    Attributes:
        path: The file.
        offset: Byte at which the matrix begins.
        shape: Number of rows and columns.
        dtype: The dtype as a numpy string.
    """

    path: Path
    offset: int
    shape: tuple[int, int]
    dtype: str

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows ``[start, stop)`` as a float32 copy."""
        return np.array(self._map(start, stop), dtype=np.float32)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows at sorted indices as a float32 copy."""
        rows = np.empty((len(indices), self.shape[1]), np.float32)
        done = 0
        while done < len(indices):
            start = int(indices[done])
            stop = min(start + _WINDOW, self.shape[0])
            count = int(np.searchsorted(indices[done:], stop))
            rows[done : done + count] = self._map(start, stop)[indices[done : done + count] - start]
            done += count
        return rows

    def _map(self, start: int, stop: int) -> np.ndarray:
        row_bytes = self.shape[1] * np.dtype(self.dtype).itemsize
        place = self.offset + start * row_bytes
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=place, shape=(stop - start, self.shape[1]))


@dataclass(frozen=True)
class _InMemory:
    matrix: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    def rows(self, start: int, stop: int) -> np.ndarray:
        return np.array(self.matrix[start:stop], dtype=np.float32)

    def take(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self.matrix[indices], dtype=np.float32)


class VectorStore:
    """Any number of vectors, scaled to unit length as they are read.

    Args:
        parts: Matrices of the same width, in order.
        facts: Facts about the vectors, for JSON, such as ``strategy`` and ``weights``.

    Example:
        >>> import numpy as np
        >>> store = VectorStore.of(np.array([[3.0, 4.0], [0.0, 2.0]]))
        >>> store.take(np.array([1, 0])).tolist()
        [[0.0, 1.0], [0.6000000238418579, 0.800000011920929]]

    Raises:
        VectorError: If there are none, or they differ in width.
    """

    def __init__(self, parts: Sequence[MappedArray | _InMemory], facts: dict[str, Any] | None = None) -> None:
        self._parts = [part for part in parts if part.shape[0]]
        self.facts = facts or {}
        if not self._parts:
            msg = "there are no vectors; give at least one"
            raise VectorError(msg)
        widths = sorted({part.shape[1] for part in self._parts})
        if len(widths) > 1:
            msg = f"the vectors have different widths: {', '.join(map(str, widths))}; give vectors of one model and strategy"
            raise VectorError(msg)
        self._starts = np.cumsum([0, *(part.shape[0] for part in self._parts)])

    @classmethod
    def of(cls, matrix: np.ndarray, facts: dict[str, Any] | None = None) -> VectorStore:
        """A store over a matrix in memory, ``[N, D]``."""
        return cls([_InMemory(matrix)], facts)

    @classmethod
    def of_files(cls, files: Sequence[Path], facts: dict[str, Any] | None = None) -> VectorStore:
        """A store over ``.npy`` files of one matrix each, or ``.safetensors`` files with one tensor each.

        Raises:
            VectorError: If a file cannot be mapped; the message says why.
        """
        return cls([mapped_array(file) for file in files], facts)

    @property
    def rows(self) -> int:
        """Number of vectors."""
        return int(self._starts[-1])

    @property
    def dimension(self) -> int:
        """Number of dimensions."""
        return int(self._parts[0].shape[1])

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Read all vectors in order, in blocks: the index of the first row, and at most ``size`` unit vectors ``[n, D]``.

        Raises:
            VectorError: If a vector has no direction: it contains NaN or infinity, or is zero.
        """
        for part, first in zip(self._parts, self._starts.tolist(), strict=False):
            for start in range(0, part.shape[0], size):
                block = part.rows(start, min(start + size, part.shape[0]))
                yield first + start, _unit(block, first + start + np.arange(len(block)))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Unit vectors of the given rows, ``[n, D]``, in their order.

        Raises:
            VectorError: If a vector has no direction.
        """
        rows = np.asarray(rows, dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        in_order = rows[order]
        vectors = np.empty((len(rows), self.dimension), np.float32)
        for number, part in enumerate(self._parts):
            low, high = np.searchsorted(in_order, self._starts[number : number + 2])
            if high > low:
                vectors[order[low:high]] = part.take(in_order[low:high] - self._starts[number])
        return _unit(vectors, rows)


def mapped_array(file: Path) -> MappedArray:
    """Locate the matrix in a ``.npy`` or ``.safetensors`` file.

    Raises:
        VectorError: If the file cannot be mapped; the message says why.
    """
    if not file.is_file():
        msg = f"{file} does not exist; check the path of the vectors"
        raise VectorError(msg)
    try:
        array = _of_npy(file) if file.suffix == ".npy" else _of_safetensors(file)
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{file} contains no matrix that can be read in blocks ({error}); write it with numpy.save or safetensors, float32 [N, D]"
        raise VectorError(msg) from error
    if array.offset + array.shape[0] * array.shape[1] * np.dtype(array.dtype).itemsize > file.stat().st_size:
        msg = f"{file} is shorter than its header says; write it again"
        raise VectorError(msg)
    return array


def _of_npy(file: Path) -> MappedArray:
    with file.open("rb") as content:
        version = np.lib.format.read_magic(content)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(content)
        if by_columns:
            msg = "it is stored by columns"
            raise ValueError(msg)
        if dtype.kind != "f":
            msg = f"its numbers are {dtype}"
            raise ValueError(msg)
        return MappedArray(file, content.tell(), _two_dimensional(shape), dtype.str)


def _of_safetensors(file: Path) -> MappedArray:
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if length > file.stat().st_size:
            msg = "its header is longer than the file"
            raise ValueError(msg)
        tensors = json.loads(content.read(length))
    tensors.pop("__metadata__", None)
    if len(tensors) != 1:
        msg = f"it contains {len(tensors)} tensors, not one"
        raise ValueError(msg)
    (tensor,) = tensors.values()
    if tensor["dtype"] not in _NUMPY:
        msg = f"its numbers are {tensor['dtype']}; F16, F32 and F64 can be read"
        raise ValueError(msg)
    return MappedArray(file, 8 + length + tensor["data_offsets"][0], _two_dimensional(tensor["shape"]), _NUMPY[tensor["dtype"]])


def _two_dimensional(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2:  # noqa: PLR2004  rows and columns
        msg = f"its shape is {list(shape)}"
        raise ValueError(msg)
    return int(shape[0]), int(shape[1])


def _unit(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    unit, has_direction = unit_and_direction(vectors, out=vectors)
    if not has_direction.all():
        wrong = ~has_direction
        what = "zero" if np.isfinite(unit[wrong]).all() else "NaN or infinite"
        shown = ", ".join(map(str, rows[wrong][:_SHOWN] + 1)) + (", ..." if wrong.sum() > _SHOWN else "")
        msg = (
            f"the vectors of {wrong.sum()} of these {len(rows)} texts are {what} (row {shown}, counted from 1) and have no direction; "
            "embed these texts again (embedder.dtype=float32), or leave them out"
        )
        raise VectorError(msg)
    return unit
