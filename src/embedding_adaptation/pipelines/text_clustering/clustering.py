"""Cluster vectors: choose the number of clusters, form them, and measure their stability."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from embedding_adaptation.datasets.clusters import NOISE, Clusters
from embedding_adaptation.pipelines.text_clustering.corpus import (
    FEWEST_PER_CLUSTER,
    check_number,
    possible_candidates,
    smallest_cluster,
)
from embedding_adaptation.pipelines.text_clustering.density import cluster_by_density, density_count, density_labels, reduced
from embedding_adaptation.pipelines.text_clustering.smoothing import Smoothing
from embedding_adaptation.pipelines.text_clustering.stability import Choice, agreement_curve, choose_number
from embedding_adaptation.vectors.kmeans import assign, cluster_by_cosine
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
    from embedding_adaptation.vectors.store import VectorStore

logger = logging.getLogger(__name__)

NO_STRUCTURE = "none found"

_DIGITS = 4  # decimals to which two vectors must agree to count as equal


def cluster_vectors(vectors: VectorStore, options: TextClusteringOptions) -> tuple[Clusters, pd.DataFrame]:
    """Cluster vectors according to the options.

    Args:
        vectors: The vectors.
        options: Method, number of clusters or how to choose it, and smoothing of what k-means gets.

    Returns:
        The clusters, and the curve of :func:`.stability.choose_number` with the columns ``chosen`` and ``hdbscan_clusters``.

    Raises:
        ClusteringError: If there are too few different vectors, or all of them are noise.
        VectorError: If vectors have no direction.
    """
    limit = options.hdbscan.max_texts if options.method == "hdbscan" else options.stability.max_texts
    drawn = draw(vectors.rows, limit, options.seed)
    matrix = vectors.take(drawn)
    distinct = len(np.unique(matrix.round(_DIGITS), axis=0))
    by_stability = options.method == "kmeans" and options.clusters is None
    if distinct < 2 or by_stability or len(drawn) == vectors.rows:  # noqa: PLR2004  a draw does not show how many are distinct in all
        check_number(distinct, options, "vector")
    cluster = _by_density if options.method == "hdbscan" else _by_means
    return cluster(vectors, drawn, matrix, distinct, options)


def draw(rows: int, limit: int, seed: int) -> np.ndarray:
    """Draw at most ``limit`` row numbers at random, sorted."""
    if rows <= limit:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))


def _by_means(
    vectors: VectorStore, _: np.ndarray, matrix: np.ndarray, distinct: int, options: TextClusteringOptions
) -> tuple[Clusters, pd.DataFrame]:
    matrix = unit_vectors(matrix)
    if options.clusters is not None:
        numbers = [options.clusters]
    else:
        numbers = possible_candidates(distinct, options)
        excluded = sorted(set(options.stability.candidates) - set(numbers))
        if excluded:
            logger.info("numbers of clusters too large for resamples of %d texts: %s", len(matrix), ", ".join(map(str, excluded)))
    choice: Choice | None = None
    if too_few(max(numbers), matrix, options):
        curve = _unmeasured(numbers)
    else:
        choice, curve = choose_number(matrix, numbers, options.stability, options.seed)
    number = options.clusters or (choice.clusters if choice else numbers[0])
    density = _count_by_density(matrix, distinct, options) if options.clusters is None else None
    # Only now: smoothing makes lumps of any cloud, so the number of clusters is chosen, and their stability measured, without it.
    smoothing = Smoothing.of(vectors.rows, options)
    smoothing.log()
    vectors = smoothing.store(vectors)
    centres = cluster_by_cosine(vectors, number, options.seed, **options.kmeans.model_dump())
    if len(centres) < number:
        logger.warning("%d of %d clusters would be empty and are left out", number - len(centres), number)
    assignment = assign(vectors, centres)
    curve["chosen"] = curve["clusters"] == number
    curve["hdbscan_clusters"] = np.nan if density is None else density
    facts = _facts(curve, number, options) | smoothing.facts | _structure(choice, density, curve, number, options)
    return Clusters(assignment.labels, assignment.distances, centres, facts), curve


def _structure(
    choice: Choice | None, density: int | None, curve: pd.DataFrame, number: int, options: TextClusteringOptions
) -> dict[str, Any]:
    """Log whether there are groups, and return the evidence for the chosen number of clusters."""
    facts: dict[str, Any] = {"hdbscan_clusters": density}
    if choice is None:
        return facts | {"structure": "not measured"}
    row = {str(name): value for name, value in curve[curve["clusters"] == number].iloc[0].items()}
    facts |= {"agreement_without_groups": float(row["reference"]), "agreement_corrected": float(row["corrected"])}
    facts["steps"] = list(choice.steps)
    if not choice.steps:
        subject = "these clusters" if options.clusters else f"the number {number} is arbitrary, and the clusters"
        logger.warning(
            "no structure found: resamples agree hardly better on clusters of these texts (%.2f at %d) than on clusters of vectors with "
            "the same covariance but without groups (%.2f); %s merely divide a continuum",
            *(row["agreement"], number, row["reference"], subject),
        )
        return facts | {"structure": NO_STRUCTURE}
    if options.clusters is None:
        by_density = "" if density is None else f"; HDBSCAN finds {density or 'none'}"
        coarser = ", ".join(map(str, choice.steps[:-1]))
        within = f", within a coarser division into {coarser}" if coarser else ""
        logger.info(
            "%d clusters chosen: agreement of resamples is %.2f, and %.2f without groups%s%s",
            *(number, row["agreement"], row["reference"], within, by_density),
        )
        if number == curve["clusters"].max():
            logger.warning(
                "%d is the largest number of clusters tried, so there may be more; add larger text_clustering.stability.candidates", number
            )
    return facts | {"structure": "found"}


def _count_by_density(matrix: np.ndarray, distinct: int, options: TextClusteringOptions) -> int | None:
    """How many clusters HDBSCAN finds in the same texts; ``None`` if there are too few for two."""
    smallest = smallest_cluster(min(distinct, len(matrix)), options)
    if distinct < 2 * smallest:
        return None
    return density_count(reduced(matrix, options.hdbscan, options.map.neighbours, options.seed), smallest, options.hdbscan)


def _by_density(
    vectors: VectorStore, drawn: np.ndarray, matrix: np.ndarray, distinct: int, options: TextClusteringOptions
) -> tuple[Clusters, pd.DataFrame]:
    smallest = smallest_cluster(distinct, options)
    points = reduced(matrix, options.hdbscan, options.map.neighbours, options.seed)
    labels = density_labels(points, smallest, options.hdbscan)
    all_labels, distances, centres = cluster_by_density(vectors, drawn, matrix, labels, smallest)
    resampled = points[draw(len(points), options.stability.max_texts, options.seed)]
    # For the same density, the smallest cluster shrinks with the share of the texts.
    share = options.stability.share * len(resampled) / len(points)
    fewest = max(2, round(smallest * share))
    if too_few(len(centres), resampled, options):
        curve = _unmeasured([len(centres)])
    else:
        curve = agreement_curve(
            [resampled] * options.stability.pairs,
            lambda rows: {len(centres): density_labels(rows, fewest, options.hdbscan)},
            options.stability.share,
            [options.seed, 0],
        )
        curve = curve.rename_axis("clusters").reset_index()
    curve["chosen"] = True
    curve["hdbscan_clusters"] = len(centres)
    facts = _facts(curve, len(centres), options) | {"min_cluster_size": smallest, "noise_share": float((all_labels == NOISE).mean())}
    smoothing = Smoothing.of(vectors.rows, options)
    smoothing.log()
    facts |= smoothing.facts
    return Clusters(all_labels, distances, centres, facts), curve


def too_few(clusters: int, matrix: np.ndarray, options: TextClusteringOptions) -> bool:
    """Whether resamples have too few texts per cluster, which is then logged."""
    if clusters * FEWEST_PER_CLUSTER <= options.stability.share * len(matrix):
        return False
    logger.warning("%d texts are too few to measure the stability of %d clusters", len(matrix), clusters)
    return True


def _unmeasured(numbers: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"clusters": numbers, "agreement": np.nan, "standard_error": np.nan, "pairs": 0})


def _facts(curve: pd.DataFrame, number: int, options: TextClusteringOptions) -> dict[str, Any]:
    agreement = float(curve.loc[curve["clusters"] == number, "agreement"].iloc[0])
    return {
        "method": options.method,
        "chosen_by": "hdbscan" if options.method == "hdbscan" else "option" if options.clusters else "stability",
        "agreement": None if np.isnan(agreement) else agreement,
        "seed": options.seed,
    }
