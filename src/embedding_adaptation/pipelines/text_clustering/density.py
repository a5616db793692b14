"""HDBSCAN: clusters are where texts lie close, and texts that belong nowhere are noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import HDBSCAN

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.pipelines.text_clustering.errors import ClusteringError
from embedding_adaptation.pipelines.text_clustering.layout import umap_coordinates
from embedding_adaptation.vectors.kmeans import add_to, assign
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from embedding_adaptation.pipelines.text_clustering.options import HdbscanOptions
    from embedding_adaptation.vectors.store import VectorStore

# A text that was not clustered joins a cluster if it is as near to the centre as this share of the cluster's own texts.
_NEAR_SHARE = 0.95


def reduced(matrix: np.ndarray, options: HdbscanOptions, neighbours: int, seed: int) -> np.ndarray:
    """What is clustered: the vectors in a few dimensions, where densities differ, or the vectors themselves.

    References:
        UMAP before HDBSCAN as in BERTopic (arXiv 2203.05794).
    """
    if options.dimensions is None or options.dimensions >= matrix.shape[1]:
        return matrix
    return umap_coordinates(matrix, options.dimensions, neighbours=neighbours, min_distance=0.0, seed=seed)


def density_labels(points: np.ndarray, smallest: int, options: HdbscanOptions) -> np.ndarray:
    """Cluster of each point ``[n]``, ``NOISE`` where it belongs to none.

    References:
        Campello, Moulavi and Sander, Density-based clustering based on hierarchical density estimates (PAKDD 2013).
    """
    samples = min(options.min_samples or smallest, len(points))
    labels: np.ndarray = HDBSCAN(min_cluster_size=smallest, min_samples=samples, copy=True).fit_predict(points)
    return labels


def density_count(points: np.ndarray, smallest: int, options: HdbscanOptions) -> int:
    """How many clusters there are in points ``[n, d]``; 0 where all is noise."""
    return int(density_labels(points, smallest, options).max()) + 1


def cluster_by_density(
    vectors: VectorStore, drawn: np.ndarray, matrix: np.ndarray, labels: np.ndarray, smallest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the clusters of drawn vectors to those of all.

    Args:
        vectors: All vectors.
        drawn: Rows of the drawn ones, ``[n]``.
        matrix: The drawn vectors, ``[n, D]``.
        labels: Their clusters, ``[n]``.
        smallest: Fewest texts in a cluster, for the message.

    Returns:
        Labels ``[N]`` (0 is the largest cluster), cosine distances ``[N]`` to the text's centre, of noise to the nearest, and centres
        ``[K, D]``. Vectors that were not drawn are of the nearest centre's cluster, or noise where they are too far from it.

    Raises:
        ClusteringError: If all is noise.
    """
    if labels.max() == NOISE:
        msg = (
            f"HDBSCAN finds no clusters among {len(labels)} texts, only noise; lower text_clustering.hdbscan.min_cluster_size "
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
    every = np.where(nearest.distances <= reach[nearest.labels], nearest.labels, NOISE).astype(np.int32)
    distances = nearest.distances.copy()
    every[drawn] = labels
    distances[drawn[members]] = own
    return every, distances, centres
