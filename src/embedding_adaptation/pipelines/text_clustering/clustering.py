"""From vectors to clusters: the number of clusters, the clusters, and how stable they are."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_adaptation.datasets.clusters import NOISE, Clusters
from embedding_adaptation.pipelines.text_clustering.corpus import (
    FEWEST_A_CLUSTER,
    check_number,
    possible_candidates,
    smallest_cluster,
)
from embedding_adaptation.pipelines.text_clustering.density import cluster_by_density, density_labels, reduced
from embedding_adaptation.pipelines.text_clustering.kmeans import assign, cluster_by_cosine, small_labels
from embedding_adaptation.pipelines.text_clustering.stability import most_stable, stability_curve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
    from embedding_adaptation.vector_store import VectorStore

logger = logging.getLogger(__name__)

_DIGITS = 4  # in which two vectors must agree to count as equal


def cluster_vectors(vectors: VectorStore, options: TextClusteringOptions) -> tuple[Clusters, pd.DataFrame]:
    """Cluster vectors as the options say.

    Args:
        vectors: The vectors.
        options: Method, number of clusters and how to choose it.

    Returns:
        The clusters; and the curve of :func:`.stability.stability_curve` with a column ``chosen``.

    Raises:
        ClusteringError: If there are too few different vectors, or all is noise.
        VectorError: If vectors have no direction.
    """
    most = options.hdbscan.max_texts if options.method == "hdbscan" else options.stability.max_texts
    drawn = draw(vectors.rows, most, options.seed)
    matrix = vectors.take(drawn)
    distinct = len(np.unique(matrix.round(_DIGITS), axis=0))
    chooses = options.method == "kmeans" and options.clusters is None
    if distinct < 2 or chooses or len(drawn) == vectors.rows:  # noqa: PLR2004  of a draw, only what holds for all
        check_number(distinct, options, "vector")
    cluster = _by_density if options.method == "hdbscan" else _by_means
    return cluster(vectors, drawn, matrix, distinct, options)


def draw(rows: int, most: int, seed: int) -> np.ndarray:
    """At most so many rows, drawn at random, sorted."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _by_means(
    vectors: VectorStore, _: np.ndarray, matrix: np.ndarray, distinct: int, options: TextClusteringOptions
) -> tuple[Clusters, pd.DataFrame]:
    def finds(clusters: int) -> Callable[[np.ndarray, int], np.ndarray]:
        return lambda rows, seed: small_labels(rows, clusters, seed)

    if options.clusters is not None:
        candidates = [options.clusters]
    else:
        candidates = possible_candidates(distinct, options)
        left_out = sorted(set(options.stability.candidates) - set(candidates))
        if left_out:
            logger.info("numbers of clusters that resamples of %d texts are too few for: %s", len(matrix), ", ".join(map(str, left_out)))
    curve = _curve(matrix, {clusters: finds(clusters) for clusters in candidates}, options)
    taken = options.clusters or most_stable(curve)
    centres = cluster_by_cosine(vectors, taken, options.kmeans, options.seed)
    if len(centres) < taken:
        logger.warning("%d of %d clusters would be empty and are left out", taken - len(centres), taken)
    found = assign(vectors, centres)
    curve["chosen"] = curve["clusters"] == taken
    return Clusters(found.labels, found.distances, centres, _facts(curve, taken, options)), curve


def _by_density(
    vectors: VectorStore, drawn: np.ndarray, matrix: np.ndarray, distinct: int, options: TextClusteringOptions
) -> tuple[Clusters, pd.DataFrame]:
    smallest = smallest_cluster(distinct, options)
    points = reduced(matrix, options.hdbscan, options.map.neighbours, options.seed)
    labels = density_labels(points, smallest, options.hdbscan)
    every, distances, centres = cluster_by_density(vectors, drawn, matrix, labels, smallest)
    resampled = points[draw(len(points), options.stability.max_texts, options.seed)]
    # The same density needs the same share of the texts.
    share = options.stability.share * len(resampled) / len(points)
    fewest = max(2, round(smallest * share))
    curve = _curve(resampled, {len(centres): lambda rows, _: density_labels(rows, fewest, options.hdbscan)}, options)
    curve["chosen"] = True
    facts = _facts(curve, len(centres), options) | {"min_cluster_size": smallest, "noise_share": float((every == NOISE).mean())}
    return Clusters(every, distances, centres, facts), curve


def _curve(
    matrix: np.ndarray, clusterings: Mapping[int, Callable[[np.ndarray, int], np.ndarray]], options: TextClusteringOptions
) -> pd.DataFrame:
    import pandas as pd

    clusters = max(clusterings)
    if clusters * FEWEST_A_CLUSTER > options.stability.share * len(matrix):
        logger.warning("%d texts are too few to say how stable %d clusters are", len(matrix), clusters)
        return pd.DataFrame({"clusters": [clusters], "agreement": [np.nan], "standard_error": [np.nan], "pairs": [0]})
    return stability_curve(matrix, clusterings, options.stability, options.seed)


def _facts(curve: pd.DataFrame, taken: int, options: TextClusteringOptions) -> dict[str, Any]:
    agreement = float(curve.loc[curve["clusters"] == taken, "agreement"].iloc[0])
    return {
        "method": options.method,
        "chosen_by": "hdbscan" if options.method == "hdbscan" else "option" if options.clusters else "stability",
        "agreement": None if np.isnan(agreement) else agreement,
        "seed": options.seed,
    }
