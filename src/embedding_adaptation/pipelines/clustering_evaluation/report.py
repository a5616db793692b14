"""What was scored, on which data and how: this decides whether scores of two runs are comparable."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pandas as pd

from embedding_adaptation.comparison_table import LABELLED_TEXTS
from embedding_adaptation.options import RANDOM_STRATEGY, EmbedderOptions
from embedding_adaptation.pipelines.clustering_evaluation.labelled_vectors import LabelledVectors
from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions

PROTOCOL = "mteb fast clustering"
METRICS = ("v_measure", "v_measure_unique", "ami_unique")


def describe_evaluation(
    clustering_scores: pd.DataFrame,
    strategy_comparison: pd.DataFrame,
    labelled_vectors: LabelledVectors,
    options: EvaluationOptions,
    embedder_options: EmbedderOptions,
) -> dict[str, Any]:
    """Write down which weights were scored, on what and how, so that scores of other runs can be compared with these, or not.

    Args:
        clustering_scores: Scores in long form.
        strategy_comparison: The strategies with intervals of the tested metric.
        labelled_vectors: The labelled texts, and what their vectors were made by.
        options: Evaluation options.
        embedder_options: Definitions of the strategies.

    Returns:
        The report on the labelled texts or, if these are not a task, on the first clustering task: fingerprints of weights and data, the
        protocol, and each strategy with the mean and standard deviation of its scores, of the tested one also the interval. Empty without
        clustering tasks.
    """
    tasks = list(dict.fromkeys(clustering_scores["task"]))
    if not tasks:
        return {}
    task = LABELLED_TEXTS if LABELLED_TEXTS in tasks else tasks[0]
    rows = clustering_scores[(clustering_scores["task"] == task) & (clustering_scores["part"] == "all")]
    given = task == LABELLED_TEXTS
    every = embedder_options.every_strategy
    by_name = {str(name): _summary(group) for name, group in rows.groupby("strategy")}
    compared = strategy_comparison[(strategy_comparison["task"] == task) & (strategy_comparison["source"] == "measured")]
    for name, low, high in compared[["strategy", "low", "high"]].itertuples(index=False):
        if scores := by_name.get(str(name), {}).get(options.statistics.metric):
            scores |= {"low": float(low), "high": float(high), "confidence": options.statistics.confidence}
    return {
        "weights": dict(labelled_vectors.fingerprints),
        "data": {
            "name": str(labelled_vectors.texts.attrs.get("name", "")) if given else task,
            "texts": len(labelled_vectors.texts) if given else int(rows["documents"].max()),
            "labels": int(rows["clusters"].max()),
            "revision": str(rows["revision"].iloc[0]),
            "fingerprint": str(rows["content"].iloc[0]),
        },
        "protocol": {
            "name": PROTOCOL,
            "seeds": sorted({int(seed) for seed in rows["seed"]}),
            "max_documents": options.max_documents if given else None,
        },
        "versions": {"mteb": metadata.version("mteb")},
        "strategies": {
            name: {"definition": embedder_options.definition(name), "scores": found} for name, found in by_name.items() if name in every
        },
        "random": by_name.get(RANDOM_STRATEGY),
    }


def _summary(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over seeds of each metric."""
    summary = {}
    for metric in METRICS:
        values = rows.loc[rows["metric"] == metric, "value"]
        if len(values):
            summary[metric] = {
                "mean": round(float(values.mean()), 6),
                "sd": round(float(values.std(ddof=1)), 6) if len(values) > 1 else 0.0,
            }
    return summary
