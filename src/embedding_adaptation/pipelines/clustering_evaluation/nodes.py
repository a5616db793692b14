"""Nodes of clustering evaluation: vectors and labels -> scores -> comparison, map."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from embedding_adaptation.datasets.embeddings import Embeddings
from embedding_adaptation.options import RANDOM_STRATEGY, EmbedderOptions, chosen_names
from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # Kedro evaluates the annotations at start, and matplotlib takes a while to import

logger = logging.getLogger(__name__)

METRICS = ("v_measure", "v_measure_unique", "ami_unique")


class EvaluationError(ValueError):
    """Vectors and labels that do not fit together; the message says why and what to do."""


def score_strategies(
    base_embeddings: Embeddings,
    adapted_embeddings: Embeddings,
    labelled_texts: pd.DataFrame,
    options: EvaluationOptions,
) -> pd.DataFrame:
    """Score every strategy, and random vectors, with every seed.

    Args:
        base_embeddings: Vectors of the base model.
        adapted_embeddings: Vectors of the adapted model.
        labelled_texts: The texts with ``id``, ``text`` and ``label``.
        options: Evaluation options.

    Returns:
        A row for each strategy and seed: ``v_measure`` (mteb's fast protocol) with its ``v_measure_std`` over bootstraps,
        ``v_measure_unique`` and ``ami_unique`` (each document once), ``documents``, ``clusters``.

    Raises:
        EvaluationError: If the vectors are of other texts than these.
    """
    from tqdm.auto import tqdm

    from embedding_adaptation.pipelines.clustering_evaluation.scoring import (
        mteb_scores,
        random_vectors,
        unique_document_scores,
    )

    vectors = _aligned_vectors(base_embeddings, adapted_embeddings, labelled_texts)
    chosen_vectors = chosen_names(options.strategies, vectors, "clustering_evaluation.strategies")
    vectors = {name: vectors[name] for name in chosen_vectors}
    rows = []
    with tqdm(total=len(options.seeds) * (len(vectors) + 1), unit="scoring", desc="cluster") as bar:
        for seed in options.seeds:
            chosen = _draw(len(labelled_texts), options.max_documents, seed)
            texts = labelled_texts["text"].iloc[chosen].tolist()
            labels = labelled_texts["label"].iloc[chosen].tolist()
            dimension = next(iter(vectors.values())).shape[1]
            drawn = {name: matrix[chosen] for name, matrix in vectors.items()}
            drawn[RANDOM_STRATEGY] = random_vectors(texts, dimension, seed)
            for name, matrix in drawn.items():
                v_measure, spread = mteb_scores(matrix, texts, labels, seed)
                rows.append(
                    {
                        "strategy": name,
                        "seed": seed,
                        "v_measure": v_measure,
                        "v_measure_std": spread,
                        **unique_document_scores(matrix, texts, labels, seed),
                        "documents": len(texts),
                        "clusters": len(set(labels)),
                    }
                )
                bar.update()
    return pd.DataFrame(rows)


def compare_strategies(clustering_scores: pd.DataFrame, embedder_options: EmbedderOptions) -> pd.DataFrame:
    """Put the strategies side by side.

    Args:
        clustering_scores: A row a strategy and seed.
        embedder_options: What each strategy is.

    Returns:
        A row a strategy, from the simplest to the adapted: what it is, and the mean and standard deviation over the seeds of each metric.
    """
    every = embedder_options.every_strategy
    order = [RANDOM_STRATEGY, *every]
    rows = []
    for name in [name for name in order if name in set(clustering_scores["strategy"])]:
        scores = clustering_scores[clustering_scores["strategy"] == name]
        strategy = every.get(name)
        row: dict[str, object] = {
            "strategy": name,
            "weights": strategy.weights if strategy else "none",
            "template": strategy.title if strategy else "none",
            "pooling": strategy.pooling if strategy else "none",
            "layers": " + ".join(map(str, strategy.layers)) if strategy else "none",
            "after": (strategy.after.title if strategy else "") or "none",
        }
        for metric in METRICS:
            row[metric] = round(float(scores[metric].mean()), 4)
            row[f"{metric}_sd"] = round(float(scores[metric].std(ddof=1)), 4) if len(scores) > 1 else 0.0
        rows.append(row)
    return pd.DataFrame(rows)


def describe_evaluation(
    clustering_scores: pd.DataFrame,
    base_embeddings: Embeddings,
    adapted_embeddings: Embeddings,
    labelled_texts: pd.DataFrame,
    options: EvaluationOptions,
    embedder_options: EmbedderOptions,
) -> dict[str, Any]:
    """Write down which weights were scored, on what and how, so that scores of other runs can be compared with these, or not.

    Args:
        clustering_scores: A row a strategy and seed.
        base_embeddings: Vectors of the base model.
        adapted_embeddings: Vectors of the adapted model.
        labelled_texts: The texts with ``text`` and ``label``.
        options: Evaluation options.
        embedder_options: What each strategy is.

    Returns:
        The report: fingerprints of weights and data, the protocol, and each strategy with the mean and standard deviation of its scores.
    """
    from embedding_adaptation.pipelines.clustering_evaluation.report import evaluation_report

    weights = {"base": base_embeddings.weights, "adapted": adapted_embeddings.weights}
    return evaluation_report(clustering_scores, METRICS, weights, labelled_texts, options, embedder_options)


def plot_cluster_map(
    base_embeddings: Embeddings,
    adapted_embeddings: Embeddings,
    labelled_texts: pd.DataFrame,
    options: EvaluationOptions,
) -> Figure:
    """Draw two strategies' vectors of the labelled texts in two dimensions, coloured by label.

    Raises:
        EvaluationError: If ``map_strategies`` names a strategy that was not extracted.
    """
    from embedding_adaptation.figures import cluster_map

    vectors = _aligned_vectors(base_embeddings, adapted_embeddings, labelled_texts)
    for name in options.map_strategies:
        if name not in vectors:
            msg = f"clustering_evaluation.map_strategies names {name!r}; there are: {', '.join(vectors)}"
            raise EvaluationError(msg)
    chosen = {name: vectors[name] for name in options.map_strategies}
    return cluster_map(chosen, labelled_texts["label"].tolist(), seed=options.seeds[0])


def _aligned_vectors(base_embeddings: Embeddings, adapted_embeddings: Embeddings, labelled_texts: pd.DataFrame) -> dict[str, np.ndarray]:
    ids = tuple(labelled_texts["id"])
    for embeddings, namespace in ((base_embeddings, "base"), (adapted_embeddings, "adapted")):
        if embeddings.ids != ids:
            msg = (
                f"{namespace}_embeddings hold {len(embeddings.ids)} texts that are not the {len(ids)} labelled texts in their order; "
                "run embedding_extraction again with the same labelled_texts"
            )
            raise EvaluationError(msg)
    return base_embeddings.vectors | adapted_embeddings.vectors


def _draw(count: int, limit: int | None, seed: int) -> np.ndarray:
    if limit is None or count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=limit, replace=False))
