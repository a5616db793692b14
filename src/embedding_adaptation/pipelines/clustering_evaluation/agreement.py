"""Agreement of clusters with labels, on unique documents and on resamples of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, pairwise_distances, silhouette_score, v_measure_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.vectors.threads import one_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

METRICS = ("v_measure", "ami", "ari", "accuracy")
_KMEANS_BATCH = 512  # as in mteb's protocol, so that both scores cluster alike
_MOST_INDICES = 4_000_000  # documents drawn at once: limits the memory of resampling
_FEWEST_CLUSTERS = 2


def cluster_vectors(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Clusters of vectors ``[N, D]`` by mteb's own k-means: ``[N]`` integers.

    Raises:
        EvaluationError: If there are fewer vectors than clusters.
    """
    if count > len(vectors):
        msg = f"cannot form {count} clusters of {len(vectors)} distinct documents; provide more documents or fewer labels"
        raise EvaluationError(msg)
    kmeans = MiniBatchKMeans(n_clusters=count, batch_size=_KMEANS_BATCH, init="k-means++", n_init=1, random_state=seed)
    with one_thread():
        return kmeans.fit_predict(vectors)


def estimate_cluster_count(vectors: np.ndarray, seed: int, *, candidates: int, max_documents: int) -> int:
    """Estimate the number of clusters without labels: of a few candidates, the one with the best silhouette.

    Candidates are spaced logarithmically between 2 and twice the square root of the number of documents. Each is tried on a sample of
    documents.

    Args:
        vectors: ``[N, D]``, at least 3.
        seed: Seed of the draw and of the clusterings.
        candidates: How many numbers to try.
        max_documents: Maximum size of the sample.

    References:
        Rousseeuw 1987, https://doi.org/10.1016/0377-0427(87)90125-7
    """
    count = len(vectors)
    drawn = vectors
    if count > max_documents:
        drawn = vectors[np.sort(np.random.default_rng(seed).choice(count, size=max_documents, replace=False))]
    most = min(max(_FEWEST_CLUSTERS, round(2 * count**0.5)), len(drawn) - 1)
    if most <= _FEWEST_CLUSTERS:
        return _FEWEST_CLUSTERS
    distances = pairwise_distances(drawn)  # [n, n]
    np.fill_diagonal(distances, 0.0)
    tried = sorted({round(float(number)) for number in np.geomspace(_FEWEST_CLUSTERS, most, candidates)})
    best, height = _FEWEST_CLUSTERS, -np.inf
    for number in tried:
        clusters = cluster_vectors(drawn, number, seed)
        if not _FEWEST_CLUSTERS <= len(np.unique(clusters)) < len(drawn):
            continue
        score = float(silhouette_score(distances, clusters, metric="precomputed"))
        if score > height:
            best, height = number, score
    return best


def agreement(labels: Sequence[str] | np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """V-measure, adjusted mutual information, adjusted Rand index, and the accuracy of the best one-to-one matching (Hungarian method)."""
    table = _Contingency(labels, clusters)
    return {
        "v_measure": float(v_measure_score(labels, clusters)),
        "ami": float(adjusted_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "accuracy": float(table.matched().mean()),
    }


def resampled_agreement(labels: Sequence[str] | np.ndarray, clusters: np.ndarray, *, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """The same four metrics on bootstrap resamples of the documents, with the clustering unchanged.

    The resamples depend only on the seed and the number of documents, so strategies scored on the same documents are scored
    on the same resamples. Clusters are matched with labels on all documents. The mutual information expected by chance,
    which AMI subtracts, is also computed on all documents: it hardly varies, and takes longer to compute than the rest.

    Args:
        labels: ``[N]``.
        clusters: ``[N]``.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        For each metric ``[resamples]`` float64. Only their spread is meaningful: copies of a document raise their level.
    """
    table = _Contingency(labels, clusters)
    expected = table.expected_information()
    correct = np.zeros(table.cells)
    correct[table.codes] = table.matched()  # all documents of a cell are matched, or none
    parts = [table.metrics(counts, expected, correct) for counts in table.draws(resamples, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


class _Contingency:
    """The contingency table of labels and clusters; only non-empty cells are kept."""

    def __init__(self, labels: Sequence[str] | np.ndarray, clusters: np.ndarray) -> None:
        names, self.rows = np.unique(np.asarray(labels), return_inverse=True)  # [N]
        numbers, self.columns = np.unique(clusters, return_inverse=True)  # [N]
        self.shape = (len(names), len(numbers))
        pairs, self.codes = np.unique(self.rows * len(numbers) + self.columns, return_inverse=True)  # [C], [N]
        self.cells, self.documents = len(pairs), len(self.codes)
        self.cell_rows, self.cell_columns = pairs // len(numbers), pairs % len(numbers)  # [C]
        # Cells are sorted by row, so sums over rows need no sorting; those over columns do.
        self.row_starts = np.searchsorted(self.cell_rows, np.arange(len(names)))
        self.by_column = np.argsort(self.cell_columns, kind="stable")
        self.column_starts = np.searchsorted(self.cell_columns[self.by_column], np.arange(len(numbers)))
        counts = np.arange(self.documents + 1, dtype=np.float64)
        self.x_log_x = counts * np.log(np.maximum(counts, 1.0))  # [N + 1]

    def matched(self) -> np.ndarray:
        """Whether each document's cluster is matched with its label: ``[N]`` bool."""
        table = np.zeros(self.shape)
        np.add.at(table, (self.rows, self.columns), 1)
        partner = np.full(self.shape[0], -1)
        rows, columns = linear_sum_assignment(table, maximize=True)
        partner[rows] = columns
        return partner[self.rows] == self.columns

    def draws(self, resamples: int, seed: int) -> Iterator[np.ndarray]:
        """Counts of each cell in each resample, in pieces ``[b, C]``."""
        rng = np.random.default_rng(seed)
        size = max(1, _MOST_INDICES // self.documents)
        for first in range(0, resamples, size):
            number = min(size, resamples - first)
            drawn = self.codes[rng.integers(0, self.documents, (number, self.documents), dtype=np.int32)]  # [b, N]
            drawn += np.arange(number)[:, None] * self.cells
            yield np.bincount(drawn.ravel(), minlength=number * self.cells).reshape(number, self.cells)

    def expected_information(self) -> float:
        """Mutual information expected by chance, in nats."""
        return float(expected_mutual_information(contingency_matrix(self.rows, self.columns, sparse=True), self.documents))

    def metrics(self, counts: np.ndarray, expected: float, correct: np.ndarray) -> dict[str, np.ndarray]:
        """The four metrics of tables ``[b, C]``."""
        total = self.documents
        labels = np.add.reduceat(counts, self.row_starts, axis=1)  # [b, R]
        clusters = np.add.reduceat(counts[:, self.by_column], self.column_starts, axis=1)  # [b, K]
        cells = self.x_log_x[counts].sum(axis=1)  # [b]
        of_labels, of_clusters = self.x_log_x[labels].sum(axis=1), self.x_log_x[clusters].sum(axis=1)
        whole = self.x_log_x[total]
        information = (cells - of_labels - of_clusters + whole) / total  # [b]
        entropy = (2 * whole - of_labels - of_clusters) / total / 2  # mean of the two
        pairs, labels_pairs, clusters_pairs = (_pairs(table) for table in (counts, labels, clusters))
        chance = labels_pairs * clusters_pairs / (total * (total - 1) / 2)
        return {
            "v_measure": _divide(information, entropy),
            "ami": _divide(information - expected, entropy - expected),
            "ari": _divide(pairs - chance, (labels_pairs + clusters_pairs) / 2 - chance),
            "accuracy": counts @ correct / total,
        }


def _pairs(counts: np.ndarray) -> np.ndarray:
    """Pairs of documents in the same cell, ``[b]``."""
    numbers = counts.astype(np.float64)
    return (numbers * (numbers - 1) / 2).sum(axis=1)


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A quotient, or 1 if the denominator is 0, as in scikit-learn."""
    safe = np.where(np.abs(below) < np.finfo(float).eps, 1.0, below)
    return np.where(np.abs(below) < np.finfo(float).eps, 1.0, above / safe)
