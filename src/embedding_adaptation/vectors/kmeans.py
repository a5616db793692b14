"""k-means by cosine in bounded memory: on unit vectors, in mini-batches where there are many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from sklearn.cluster import KMeans, MiniBatchKMeans
from tqdm.auto import tqdm

from embedding_adaptation.vectors.threads import one_thread, threads_of_passes
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedding_adaptation.vectors.store import VectorStore

# Numbers in a block of vectors or of their similarities to all centres: 64 MB.
_BLOCK_NUMBERS = 1 << 24
# Texts per cluster used to initialise mini-batches.
_START_TEXTS = 50


@dataclass(frozen=True)
class Assignment:
    """The nearest centre of each vector.

    Attributes:
        labels: Index of the centre, int32 ``[N]``.
        distances: Cosine distance to it, float32 ``[N]``.
        sums: Sum of the vectors of each centre, float64 ``[K, D]``.
    """

    labels: np.ndarray
    distances: np.ndarray
    sums: np.ndarray


def cluster_by_cosine(
    vectors: VectorStore, clusters: int, seed: int, *, full_up_to: int, batch_size: int, epochs: int, starts: int
) -> np.ndarray:
    """Compute the centres of clusters.

    The squared Euclidean distance of unit vectors is twice their cosine distance, so k-means groups them by direction; its centres are
    scaled to unit length, and one pass over all vectors turns them into the mean directions of their clusters (spherical k-means).

    Args:
        vectors: The vectors.
        clusters: Number of centres.
        seed: Seed of initialisations and batches.
        full_up_to: Up to this many vectors are clustered at once, more of them in mini-batches.
        batch_size: Number of vectors per mini-batch.
        epochs: How often mini-batches go through all vectors.
        starts: Number of initialisations, the best of which is kept.

    Returns:
        Unit vectors ``[K, D]``, the centre of the largest cluster first; fewer than requested if some would be empty.

    References:
        Sculley, Web-scale k-means clustering (WWW 2010); Dhillon and Modha, Concept decompositions for large sparse text data using
        clustering (Machine Learning 42, 2001).
    """
    if vectors.rows <= full_up_to:
        every = vectors.take(np.arange(vectors.rows))
        with threads_of_passes(every.size):
            means = KMeans(clusters, n_init=starts, random_state=seed).fit(every).cluster_centers_
    else:
        means = _in_batches(vectors, clusters, seed, batch_size, epochs, starts)
    sums = assign(vectors, unit_vectors(means)).sums
    assignment = assign(vectors, unit_vectors(sums[np.linalg.norm(sums, axis=1) > 0]))
    sizes = np.bincount(assignment.labels, minlength=len(assignment.sums))
    order = [cluster for cluster in np.argsort(-sizes, kind="stable") if sizes[cluster]]
    return unit_vectors(assignment.sums[order])


def labels_from_ward(points: np.ndarray, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """Cluster a few points into many numbers of clusters at once: k-means, initialised from Ward's hierarchy.

    One hierarchy initialises all numbers of clusters, without randomness: if resamples are clustered differently, they differ, and are not
    merely stuck in different local minima.

    Args:
        points: ``[n, D]``; memory and time grow with the square of n.
        numbers: Numbers of clusters.

    Returns:
        Labels ``[n]`` by number of clusters, from 0 without gaps; fewer clusters if points are equal.

    References:
        Ward, Hierarchical grouping to optimize an objective function (JASA 58, 1963).
    """
    links = linkage(points, "ward")
    labels_by_number: dict[int, np.ndarray] = {}
    for number in numbers:
        groups = fcluster(links, number, "maxclust") - 1
        sums = np.zeros((groups.max() + 1, points.shape[1]))
        add_to(sums, groups, points)
        centres = (sums / np.bincount(groups)[:, None]).astype(points.dtype)
        with threads_of_passes(points.size):
            labels = KMeans(len(centres), init=centres, n_init=1).fit(points).labels_
        labels_by_number[number] = np.unique(labels, return_inverse=True)[1]
    return labels_by_number


def assign(vectors: VectorStore, centres: np.ndarray) -> Assignment:
    """Find the nearest centre of each vector, a block at a time.

    Args:
        vectors: The vectors.
        centres: Unit vectors ``[K, D]``.
    """
    labels = np.empty(vectors.rows, np.int32)
    distances = np.empty(vectors.rows, np.float32)
    sums = np.zeros(centres.shape)  # [K, D], float64
    size = max(1, _BLOCK_NUMBERS // max(centres.shape))
    for start, block in vectors.blocks(size):
        cosines = block @ centres.T  # [n, K]
        nearest = cosines.argmax(axis=1)  # [n]
        span = slice(start, start + len(block))
        labels[span] = nearest
        distances[span] = np.clip(1.0 - cosines[np.arange(len(block)), nearest], 0.0, 2.0)
        add_to(sums, nearest, block)
    return Assignment(labels, distances, sums)


def add_to(sums: np.ndarray, labels: np.ndarray, block: np.ndarray) -> None:
    """Add vectors ``[n, D]`` to the sums ``[K, D]`` of their clusters ``[n]``."""
    count = len(labels)
    members = csr_array((np.ones(count, np.float32), (labels, np.arange(count))), shape=(len(sums), count))  # [K, n]
    sums += members @ block


def _in_batches(vectors: VectorStore, clusters: int, seed: int, batch_size: int, epochs: int, starts: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    start = rng.choice(vectors.rows, min(vectors.rows, max(batch_size, _START_TEXTS * clusters)), replace=False)
    drawn = vectors.take(start)
    with threads_of_passes(drawn.size):
        first = KMeans(clusters, n_init=starts, random_state=seed).fit(drawn)
    model = MiniBatchKMeans(clusters, init=first.cluster_centers_, n_init=1, batch_size=batch_size, random_state=seed)
    with tqdm(total=epochs * vectors.rows, unit="text", unit_scale=True, desc="k-means") as bar:
        for _ in range(epochs):
            order = rng.permutation(vectors.rows)
            # No batch is smaller than batch_size, because scikit-learn needs at least as many texts as clusters in each.
            for batch in np.array_split(order, max(1, len(order) // max(batch_size, clusters))):
                taken = vectors.take(batch)
                with one_thread():
                    model.partial_fit(taken)
                bar.update(len(batch))
    centres: np.ndarray = model.cluster_centers_
    return centres
