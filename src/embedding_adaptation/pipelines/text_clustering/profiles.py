"""Profiles of clusters: size, cohesion, nearest texts and distinctive words."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.pipelines.text_clustering.corpus import texts_at
from embedding_adaptation.pipelines.text_clustering.words import WordCounts
from embedding_adaptation.texts.language import languages_of

if TYPE_CHECKING:
    from embedding_adaptation.datasets.clusters import Clusters
    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
    from embedding_adaptation.texts.stream import TextStream

# This many texts are considered per text shown, because equal ones are shown once.
_SPARE = 4


def profile_clusters(corpus: TextStream, clusters: Clusters, options: TextClusteringOptions) -> pd.DataFrame:
    """Describe clusters; noise, if any, comes last.

    Args:
        corpus: The texts.
        clusters: Their clusters.
        options: Numbers of words and texts.

    Returns:
        One row per cluster: ``cluster``, ``size``, ``share`` of all texts, ``cohesion`` (mean cosine to the centre, NaN for noise),
        ``words`` and ``nearest`` (lists).
    """
    count = len(clusters.centres)
    nearest = nearest_rows(clusters, _SPARE * options.nearest_texts)
    texts = texts_at(corpus, np.concatenate(nearest))
    languages = languages_of([[texts[row] for row in rows.tolist()] for rows in nearest])
    words = _distinctive_words(corpus, clusters, languages, options)
    members = clusters.labels != NOISE
    means = np.bincount(clusters.labels[members], clusters.distances[members], count) / np.maximum(clusters.sizes, 1)  # [K]
    profiles = pd.DataFrame(
        {
            "cluster": range(count),
            "size": clusters.sizes,
            "share": (clusters.sizes / len(clusters.labels)).round(6),
            "cohesion": (1.0 - means).round(6),
            "words": words,
            "nearest": [list(dict.fromkeys(texts[row] for row in rows.tolist()))[: options.nearest_texts] for rows in nearest],
        }
    )
    noise = int((~members).sum())
    if noise:
        row = {"cluster": NOISE, "size": noise, "share": round(noise / len(members), 6), "cohesion": np.nan, "words": [], "nearest": []}
        profiles = pd.concat([profiles, pd.DataFrame([row])], ignore_index=True)
    return profiles


def nearest_rows(clusters: Clusters, count: int) -> list[np.ndarray]:
    """For each cluster, the rows of at most ``count`` texts, the nearest to the centre first."""
    order = np.lexsort((clusters.distances, clusters.labels))
    starts = np.searchsorted(clusters.labels[order], np.arange(len(clusters.centres) + 1))
    return [order[start : min(start + count, stop)] for start, stop in itertools.pairwise(starts)]


def _distinctive_words(corpus: TextStream, clusters: Clusters, languages: list[str], options: TextClusteringOptions) -> list[list[str]]:
    rng = np.random.default_rng(options.seed)
    order = np.lexsort((rng.random(len(clusters.labels)), clusters.labels))
    labels = clusters.labels[order]
    position = np.arange(len(order)) - np.searchsorted(labels, labels)  # within its cluster
    counted = np.zeros(len(order), bool)
    counted[order[position < options.words.max_texts]] = True
    counts = WordCounts(len(clusters.centres))
    first = 0
    for piece in corpus.pieces():
        rows = np.flatnonzero(counted[first : first + len(piece)])
        counts.add(piece["text"].iloc[rows], clusters.labels[first + rows].tolist())
        first += len(piece)
    return counts.distinctive(options.words.count, options.words.stop_words, languages)
