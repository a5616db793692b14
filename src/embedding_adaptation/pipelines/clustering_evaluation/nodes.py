"""Nodes of clustering evaluation: tasks and vectors -> scores, cell by cell -> tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from embedding_adaptation.comparison_table import LABELLED_TEXTS
from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.datasets.embeddings import Embeddings
from embedding_adaptation.datasets.mteb_results import TaskResults
from embedding_adaptation.datasets.task_mirror import TaskMirror
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.figures import Figure
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.labelled_vectors import LabelledVectors
from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions
from embedding_adaptation.repeatable import repeatable, repeatable_unless

_MAP_DOCUMENTS = 1000  # more points make a map slower, not clearer


def _asks_the_hub(*arguments: Any) -> bool:
    """Whether tasks or models to compare with may come from the Hub, or from a mirror of it."""
    options: EvaluationOptions = arguments[-2]
    return bool(options.comparators.models) or not {*options.tasks} <= {LABELLED_TEXTS, *options.labelled_files}


@repeatable
def align_vectors(
    base_embeddings: Embeddings,
    adapted_embeddings: Embeddings,
    labelled_texts: pd.DataFrame,
    base_model: DecoderWeights,
    adapter: DecoderWeights,
    embedder_options: EmbedderOptions,
) -> LabelledVectors:
    """Combine the labelled texts with the vectors of both models; see :meth:`.LabelledVectors.align`."""
    embeddings = {"base": base_embeddings, "adapted": adapted_embeddings}
    return LabelledVectors.align(labelled_texts, embeddings, {"base": base_model, "adapted": adapter}, embedder_options.identities)


@repeatable_unless(_asks_the_hub)
def plan_evaluation(
    labelled_vectors: LabelledVectors,
    embedding_store: EmbeddingStore,
    task_mirror: TaskMirror,
    finished_cells: Mapping[str, pd.DataFrame],
    options: EvaluationOptions,
    embedder_options: EmbedderOptions,
) -> pd.DataFrame:
    """List everything to score: each task with each strategy and seed, under a fingerprint of everything that affects its score.

    Args:
        labelled_vectors: The labelled texts with their vectors and weights.
        embedding_store: Vectors of other tasks' texts.
        task_mirror: Source of the data of mteb's tasks.
        finished_cells: Scores of earlier runs.
        options: Tasks, strategies, seeds, protocol.
        embedder_options: Definitions of the strategies.

    Returns:
        One row per cell.

    Raises:
        EvaluationError: If a task cannot be scored, or a name does not exist.
        MirrorError: If a task's data are missing or differ from those expected.
    """
    from embedding_adaptation.pipelines.clustering_evaluation.grid import check_data, plan
    from embedding_adaptation.pipelines.clustering_evaluation.tasks import resolve_tasks
    from embedding_adaptation.pipelines.clustering_evaluation.vectors import find_contenders

    tasks = resolve_tasks(options, labelled_vectors.texts, task_mirror)
    check_data(tasks, finished_cells)
    return plan(tasks, find_contenders(labelled_vectors, embedding_store, options, embedder_options), options)


@repeatable
def score_cells(
    evaluation_plan: pd.DataFrame,
    labelled_vectors: LabelledVectors,
    embedding_store: EmbeddingStore,
    task_mirror: TaskMirror,
    finished_cells: Mapping[str, pd.DataFrame],
    options: EvaluationOptions,
    embedder_options: EmbedderOptions,
) -> Iterator[dict[str, pd.DataFrame]]:
    """Score the planned cells that no earlier run has scored.

    Args:
        evaluation_plan: The cells.
        labelled_vectors: See :func:`plan_evaluation`.
        embedding_store: Vectors of other tasks' texts; missing ones are computed and added.
        task_mirror: Source of the data of mteb's tasks.
        finished_cells: Scores of earlier runs; these are kept.
        options: Tasks and protocol.
        embedder_options: Definitions of the strategies.

    Yields:
        One cell at a time.
    """
    if evaluation_plan["cell"].isin(set(finished_cells)).all():
        return
    from embedding_adaptation.pipelines.clustering_evaluation.grid import score_missing
    from embedding_adaptation.pipelines.clustering_evaluation.tasks import resolve_tasks
    from embedding_adaptation.pipelines.clustering_evaluation.vectors import find_contenders

    tasks = resolve_tasks(options, labelled_vectors.texts, task_mirror)
    contenders = find_contenders(labelled_vectors, embedding_store, options, embedder_options)
    yield from score_missing(evaluation_plan, tasks, contenders, finished_cells, options)


@repeatable
def gather_scores(evaluation_plan: pd.DataFrame, evaluation_cells: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Find the scores of the planned cells among all that were ever made.

    Raises:
        EvaluationError: If one is missing.
    """
    from embedding_adaptation.pipelines.clustering_evaluation.cells import gather

    return gather(evaluation_plan, evaluation_cells)


@repeatable
def tabulate_scores(scored_cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write clustering scores in long form, and the main scores of other tasks.

    Returns:
        Clustering scores with a row for each task, strategy, seed, part and metric; other scores with a row for each task, strategy and
        seed.
    """
    from embedding_adaptation.pipelines.clustering_evaluation.comparison import long_table, other_tasks_table

    return long_table(scored_cells), other_tasks_table(scored_cells)


@repeatable
def compare_strategies(
    scored_cells: pd.DataFrame, published_scores: pd.DataFrame, options: EvaluationOptions, embedder_options: EmbedderOptions
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Put the strategies side by side and test their differences.

    Args:
        scored_cells: Scores with their resamples.
        published_scores: Scores of other people's models, shown beside ours where the tasks are the same, and never tested.
        options: Metric, confidence, baseline.
        embedder_options: Definitions of the strategies.

    Returns:
        A row for each task and strategy (means, intervals, what to make of them in words); the tested differences; strategies against
        tasks with the best marked.
    """
    from embedding_adaptation.pipelines.clustering_evaluation.comparison import compare, pivot

    comparison, differences = compare(scored_cells, published_scores, options, embedder_options)
    return comparison, differences, pivot(comparison)


@repeatable
def collect_mteb_results(scored_cells: pd.DataFrame, options: EvaluationOptions, embedder_options: EmbedderOptions) -> TaskResults:
    """Pick the results that mteb's leaderboard takes: its own tasks with its own seed.

    Returns:
        mteb's result of each model and task.
    """
    from embedding_adaptation.pipelines.clustering_evaluation.submission import leaderboard_results

    return leaderboard_results(scored_cells, options.model_name, embedder_options)


@repeatable
def plot_heatmap(strategy_comparison: pd.DataFrame) -> Figure:
    """Draw scores of templates against poolings."""
    from embedding_adaptation.comparison_table import overview
    from embedding_adaptation.pipelines.clustering_evaluation.figures import strategy_heatmap

    return strategy_heatmap(overview(strategy_comparison))


@repeatable
def plot_comparison(strategy_comparison: pd.DataFrame, options: EvaluationOptions) -> Figure:
    """Draw base, adapted and comparators as bars with intervals."""
    from embedding_adaptation.pipelines.clustering_evaluation.figures import comparison_bars

    return comparison_bars(strategy_comparison, options.statistics.metric, options.statistics.confidence)


@repeatable
def plot_seeds(clustering_scores: pd.DataFrame) -> Figure:
    """Draw each seed's score."""
    from embedding_adaptation.pipelines.clustering_evaluation.figures import seed_spread

    return seed_spread(clustering_scores)


@repeatable
def plot_cluster_map(labelled_vectors: LabelledVectors, options: EvaluationOptions) -> Figure:
    """Plot two strategies' vectors of up to a thousand labelled texts in two dimensions, coloured by label.

    Raises:
        EvaluationError: If ``map_strategies`` names a strategy that was not extracted.
    """
    from embedding_adaptation.pipelines.clustering_evaluation.figures import cluster_map

    texts, vectors = labelled_vectors.texts, labelled_vectors.vectors
    for name in options.map_strategies:
        if name not in vectors:
            msg = f"unknown strategy {name!r} in clustering_evaluation.map_strategies; choose from {', '.join(vectors)}"
            raise EvaluationError(msg)
    drawn = np.arange(len(texts))
    if len(drawn) > _MAP_DOCUMENTS:
        drawn = np.sort(np.random.default_rng(options.seeds[0]).choice(len(drawn), size=_MAP_DOCUMENTS, replace=False))
    shown = {name: vectors[name][drawn] for name in options.map_strategies}
    return cluster_map(shown, texts["label"].iloc[drawn].tolist(), seed=options.seeds[0])
