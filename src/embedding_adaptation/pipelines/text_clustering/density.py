"""Cluster with HDBSCAN: dense regions are clusters, and texts outside them are noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import HDBSCAN

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.pipelines.text_clustering.errors import ClusteringError
from embedding_adaptation.vectors.kmeans import add_to, assign
from embedding_adaptation.vectors.layout import umap_coordinates
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from embedding_adaptation.pipelines.text_clustering.options import HdbscanOptions
    from embedding_adaptation.vectors.store import VectorStore

# A text that was not in the draw joins a cluster if it is within the distance from the centre that holds this share of the cluster's texts.
_NEAR_SHARE = 0.95


def reduced(matrix: np.ndarray, options: HdbscanOptions, neighbours: int, seed: int) -> np.ndarray:
    """Reduce the vectors to a few dimensions, where densities differ, unless the options keep them as they are.

    References:
        UMAP before HDBSCAN as in BERTopic (arXiv 2203.05794).
    """
    if options.dimensions is None or options.dimensions >= matrix.shape[1]:
        return matrix
    return umap_coordinates(matrix, options.dimensions, neighbours=neighbours, min_distance=0.0, seed=seed)


def density_labels(points: np.ndarray, smallest: int, options: HdbscanOptions) -> np.ndarray:
    """Cluster of each point ``[n]``; ``NOISE`` for points in none.

    References:
        Campello, Moulavi and Sander, Density-based clustering based on hierarchical density estimates (PAKDD 2013).
    """
    samples = min(options.min_samples or smallest, len(points))
    labels: np.ndarray = HDBSCAN(min_cluster_size=smallest, min_samples=samples, copy=True).fit_predict(points)
    return labels


def density_count(points: np.ndarray, smallest: int, options: HdbscanOptions) -> int:
    """The number of clusters in points ``[n, d]``; 0 if all of them are noise."""
    return int(density_labels(points, smallest, options).max()) + 1


def cluster_by_density(
    vectors: VectorStore, drawn: np.ndarray, matrix: np.ndarray, labels: np.ndarray, smallest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Extend the clusters of drawn vectors to all vectors.

    Args:
        vectors: All vectors.
        drawn: Rows of the drawn vectors, ``[n]``.
        matrix: The drawn vectors, ``[n, D]``.
        labels: Their clusters, ``[n]``.
        smallest: Minimum size of a cluster, for the message.

    Returns:
        Labels ``[N]`` (0 is the largest cluster), cosine distances ``[N]`` to the cluster's centre (for noise, to the nearest centre), and
        centres ``[K, D]``. Vectors that were not drawn join the cluster of the nearest centre, or are noise if they are too far from it.

    Raises:
        ClusteringError: If all texts are noise.
    """
    if labels.max() == NOISE:
        msg = (
            f"HDBSCAN found no clusters among {len(labels)} texts, only noise; lower text_clustering.hdbscan.min_cluster_size "
            f"(now {smallest}) or min_samples, or set text_clustering.method to kmeans"
        )
        raise ClusteringError(msg)
    members = labels != NOISE
    order = np.argsort(-np.bincount(labels[members]), kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    labels = np.where(members, rank[np.maximum(labels, 0)], NOISE).astype(np.int32)
    sums = np.zeros((len(order), matrix.shape[1]))
    add_to(sums, labels[members], matrix[members])
    centres = unit_vectors(sums)
    own = 1.0 - np.einsum("nd,nd->n", matrix[members], centres[labels[members]])  # [members]
    reach = np.array([np.quantile(own[labels[members] == cluster], _NEAR_SHARE) for cluster in range(len(centres))])  # [K]
    nearest = assign(vectors, centres)
    all_labels = np.where(nearest.distances <= reach[nearest.labels], nearest.labels, NOISE).astype(np.int32)
    distances = nearest.distances.copy()
    all_labels[drawn] = labels
    distances[drawn[members]] = own
    return all_labels, distances, centres
