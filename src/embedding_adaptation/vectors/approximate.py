"""Nearest neighbours among very many vectors: an inverted file, of which only the cells nearest to each vector are searched (FAISS)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

# Share of the true neighbours that is to be found. A mutual pair needs both of its texts to find one another, so .985 leaves about .97.
RECALL = 0.985
_SEED = 0
_CELLS = 2.0  # times the root of the number of vectors
_TRAINED_ON = 64  # vectors for each cell
_ITERATIONS = 8
_MEASURED_ON = 2048  # vectors whose neighbours are searched among all, to see how many cells must be looked into
# Cells that are looked into, and the cost of a comparison there against that in one large product (docs/explanation/results.md).
_USUAL_PROBES, _USUAL_COST = 48, 2.5
# Vectors searched between two steps of the progress bar, and their nearest cells.
_AT_ONCE, _PROBES_AT_ONCE = 1 << 16, 1 << 23
_SCORES_AT_ONCE = 1 << 24  # similarities: 64 MB


def approximate_neighbours(
    vectors: np.ndarray, count: int, *, recall: float = RECALL, progress: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Find most of the nearest other rows of each row by cosine similarity.

    k-means divides the vectors into cells, and a vector is compared with those of the nearest cells only. How many cells that must be, is
    measured: the neighbours of a few vectors are searched among all, and as many cells are looked into as hold the wanted share of them.
    Cells are searched one after the other, each for all vectors that it is near to, because products of matrices are many times faster than
    products of single vectors. The same vectors give the same neighbours.

    Args:
        vectors: ``[N, D]`` float32 of unit length.
        count: Number of neighbours, less than ``N``.
        recall: Share of the true neighbours that is to be found; 1 looks into all cells, and finds what the exact search finds.
        progress: Whether to show a progress bar.

    Returns:
        Their indices, int64 ``[N, count]``, and their cosine similarities, float32, most similar first; ties go to the lower index.

    References:
        Jégou, Douze and Schmid, Product quantization for nearest neighbor search (PAMI 33, 2011), section IV;
        Douze et al., The Faiss library (https://arxiv.org/abs/2401.08281).
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    cells = _Cells.of(vectors)
    drawn = np.sort(np.random.default_rng(_SEED).permutation(len(vectors))[:_MEASURED_ON])
    probes = cells.probes(drawn, count, recall)
    rows = np.empty((len(vectors), count), np.int64)
    similarities = np.empty((len(vectors), count), np.float32)
    with tqdm(total=len(vectors), unit="text", unit_scale=True, desc="neighbours", disable=not progress) as bar:
        for own in _blocks(np.arange(len(vectors)), probes):
            rows[own], similarities[own] = cells.search(own, count, probes)
            bar.update(len(own))
    # Where the nearest cells hold too few vectors, all are searched.
    for own in _blocks(np.flatnonzero((rows < 0).any(axis=1)), len(cells.centres)):
        rows[own], similarities[own] = cells.search(own, count, len(cells.centres))
    return rows, similarities


def approximate_bytes(number: int, width: int, count: int) -> int:
    """Bytes that the search takes beside the vectors: those that cells are made from, those searched at once, and the result.

    Args:
        number: Number of vectors.
        width: Their dimensions.
        count: Number of neighbours.
    """
    cells = _cells(number)
    trained = min(number, _TRAINED_ON * cells)
    at_once = min(number, _AT_ONCE)
    places = number * 3 * 8 + min(at_once * cells, _PROBES_AT_ONCE) * 4 * 8  # of the vectors in their cells, and of each text's cells
    return 4 * (width * (2 * trained + 2 * at_once) + 2 * _SCORES_AT_ONCE) + places + number * count * (8 + 4)


def approximate_comparisons(number: int) -> float:
    """About as many comparisons of two vectors as the search takes the time of: with cells, within them, and for making them."""
    cells = _cells(number)
    within = number * min(_USUAL_PROBES, cells) * number / cells
    return _USUAL_COST * within + number * cells + _ITERATIONS * min(number, _TRAINED_ON * cells) * cells


def _blocks(rows: np.ndarray, probes: int) -> Iterator[np.ndarray]:
    size = max(1, min(_AT_ONCE, _PROBES_AT_ONCE // probes))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _cells(number: int) -> int:
    return max(1, min(number, round(_CELLS * number**0.5)))


@dataclass(frozen=True)
class _Cells:
    """Vectors in cells.

    Attributes:
        vectors: ``[N, D]``.
        centres: ``[C, D]``.
        members: Row numbers, cell by cell, ``[N]``.
        bounds: Where the members of each cell begin, and the last ones end, ``[C + 1]``.
    """

    vectors: np.ndarray
    centres: np.ndarray
    members: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray) -> _Cells:
        import faiss

        number, width = vectors.shape
        cells = _cells(number)
        drawn = np.sort(np.random.default_rng(_SEED).permutation(number)[: _TRAINED_ON * cells])
        # No warning where there are fewer vectors per cell than FAISS would like.
        means = faiss.Kmeans(
            width, cells, niter=_ITERATIONS, seed=_SEED, spherical=True, min_points_per_centroid=1, max_points_per_centroid=_TRAINED_ON
        )
        means.train(vectors[drawn])
        centres = np.asarray(means.centroids)  # [C, D]
        homes = np.empty(number, np.int64)
        for start in range(0, number, _AT_ONCE):
            block = slice(start, start + _AT_ONCE)
            homes[block] = _nearest(vectors[block], centres, 1)[1][:, 0]
        return cls(vectors, centres, np.argsort(homes, kind="stable"), np.searchsorted(np.sort(homes), np.arange(cells + 1)))

    def probes(self, sample: np.ndarray, count: int, recall: float) -> int:
        """In how many of the nearest cells a share of the neighbours of some rows lies."""
        cells = len(self.centres)
        if recall >= 1:
            return cells
        _, found = _nearest(self.vectors[sample], self.vectors, count + 1)
        true = np.stack([row[row != own][:count] for own, row in zip(sample, _own_first(found, sample), strict=True)])  # [n, count]
        home = np.empty(len(self.vectors), np.int64)
        home[self.members] = np.repeat(np.arange(cells), np.diff(self.bounds))
        order = _nearest(self.vectors[sample], self.centres, cells)[1]  # [n, C]
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.broadcast_to(np.arange(cells), order.shape), axis=1)
        needed = np.sort(np.take_along_axis(rank, home[true], axis=1), axis=None) + 1  # cells, for each neighbour
        probes = int(needed[min(len(needed), int(np.ceil(recall * len(needed)))) - 1])
        logger.info("neighbours: %d of %d cells hold %.1f %% of them", probes, cells, 100 * float((needed <= probes).mean()))
        return probes

    def search(self, own: np.ndarray, count: int, probes: int) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours of some rows without themselves, ``[n, count]`` both; -1 where the cells hold too few."""
        import faiss

        queries = self.vectors[own]  # [n, D]
        cells = _nearest(queries, self.centres, probes)[1].ravel()  # [n * probes]
        order = np.argsort(cells, kind="stable")
        ends = np.searchsorted(cells[order], np.arange(len(self.centres) + 1))
        found = faiss.ResultHeap(len(own), count + 1, keep_max=True)
        for cell in range(len(self.centres)):
            members = self.members[self.bounds[cell] : self.bounds[cell + 1]]
            asking = order[ends[cell] : ends[cell + 1]] // probes
            if not len(asking):
                continue
            of_cell = queries[asking]  # [q, D]
            size = max(1, _SCORES_AT_ONCE // len(asking))  # cells may be of any size
            for start in range(0, len(members), size):
                block = members[start : start + size]
                found.add_result_subset(asking, of_cell @ self.vectors[block].T, block)
        found.finalize()
        rows, similarities = found.I, found.D
        similarities[rows == own[:, None]] = -np.inf  # itself comes last, and is left out
        ranked = np.lexsort((rows, -similarities), axis=1)[:, :count]
        return np.take_along_axis(rows, ranked, axis=1), np.take_along_axis(similarities, ranked, axis=1)


def _nearest(queries: np.ndarray, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest inner products of queries with vectors, and whose they are, ``[n, count]`` both."""
    import faiss

    return faiss.knn(queries, vectors, count, metric=faiss.METRIC_INNER_PRODUCT)


def _own_first(found: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rows found, so that each holds its own once: in place of the last where copies of it have crowded it out."""
    found = found.copy()
    absent = ~(found == own[:, None]).any(axis=1)
    found[absent, -1] = own[absent]
    return found
