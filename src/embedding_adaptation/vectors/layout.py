"""Reduce vectors to a few dimensions with UMAP, from exact neighbours."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from embedding_adaptation.vectors.neighbours import nearest_neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator

# With fewer points, there are no neighbourhoods to preserve, and the strongest principal components are enough.
_FEWEST_POINTS = 6
_NO_VARIANCE = 1e-9


def umap_coordinates(matrix: np.ndarray, dimensions: int, *, neighbours: int, min_distance: float, seed: int) -> np.ndarray:
    """Coordinates in which near vectors stay near.

    The neighbours are exact, found with matrix products, and the optimisation starts from the principal components, so that the same
    vectors and seed give the same coordinates on the same machine. UMAP's approximate search would take longer to compile than the exact
    search takes for thousands of texts.

    Args:
        matrix: Unit vectors ``[n, D]``.
        dimensions: Number of coordinates.
        neighbours: Neighbours per point, including itself; reduced if there are fewer points.
        min_distance: Minimum distance between points.
        seed: Seed of the optimisation.

    Returns:
        Float32 ``[n, dimensions]``.

    References:
        McInnes, Healy and Melville, UMAP (arXiv 1802.03426); https://umap-learn.readthedocs.io.
    """
    start = principal_components(matrix, dimensions)
    if len(matrix) < _FEWEST_POINTS:
        return start
    with warnings.catch_warnings(), _threads_of_torch():
        # The compiler's deprecations, and that new points cannot be mapped: neither matters to readers of the map.
        warnings.simplefilter("ignore")
        from umap import UMAP

        count = min(neighbours, len(matrix) - 1)
        jitter = np.random.default_rng(seed).normal(scale=1e-4, size=start.shape)
        reducer = UMAP(
            n_components=dimensions,
            n_neighbors=count,
            min_dist=min_distance,
            metric="cosine",
            init=10.0 * start / max(float(np.abs(start).max()), 1e-12) + jitter,
            precomputed_knn=(*with_themselves(matrix, count), None),
            random_state=seed,
            n_jobs=1,
        )
        return np.asarray(reducer.fit_transform(matrix), dtype=np.float32)


@contextmanager
def _threads_of_torch() -> Iterator[None]:
    """Give torch back as many threads as it had: UMAP's compiler sets OpenMP's number to that of all cores, for the whole process.

    Where torch has been limited to fewer, because others need the processor, its threads would wait for one another at every small product.
    """
    torch = sys.modules.get("torch")  # nothing here needs it
    before = None if torch is None else torch.get_num_threads()
    try:
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def with_themselves(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest neighbours of each unit vector as UMAP expects them, itself first: rows and cosine distances, ``[n, count]`` both."""
    rows, similarities = nearest_neighbours(matrix, count - 1)
    own = np.arange(len(matrix))[:, None]  # [n, 1]
    distances = np.maximum(1.0 - similarities, 0.0, dtype=np.float32)
    return np.hstack([own, rows]).astype(np.int32), np.hstack([np.zeros(own.shape, np.float32), distances])


def principal_components(matrix: np.ndarray, dimensions: int) -> np.ndarray:
    """The strongest principal components, float32 ``[n, dimensions]``; padded with zeros if there are fewer."""
    centred = matrix - matrix.mean(axis=0)
    width = matrix.shape[1]
    wanted = (max(0, width - dimensions), width - 1)  # eigenvalues ascend
    values, directions = eigh((centred.T @ centred).astype(np.float64), subset_by_index=wanted, overwrite_a=True)
    strongest = directions[:, ::-1] * (values[::-1] > _NO_VARIANCE)  # [D, dimensions or fewer]
    strongest = strongest * np.sign(strongest[np.abs(strongest).argmax(axis=0), np.arange(strongest.shape[1])])
    components = np.zeros((len(matrix), dimensions), np.float32)
    components[:, : strongest.shape[1]] = centred @ strongest
    return components
