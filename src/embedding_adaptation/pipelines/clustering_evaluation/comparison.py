"""Tables of the evaluation: scores in long form, strategies side by side, differences tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from embedding_adaptation.comparison_table import ALL_TASKS, BEST, NOT_WORSE, PUBLISHED, WORSE
from embedding_adaptation.pipelines.clustering_evaluation.cells import RESAMPLED
from embedding_adaptation.pipelines.clustering_evaluation.significance import (
    Estimate,
    SeedScores,
    estimate_difference,
    estimate_score,
    holm,
    in_words,
    mean_over_tasks,
)
from embedding_adaptation.pipelines.clustering_evaluation.tasks import CLUSTERING
from embedding_adaptation.pipelines.clustering_evaluation.vectors import COMPARATOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions, StatisticsOptions

LONG_COLUMNS = (
    "task", "strategy", "kind", "seed", "part", "metric", "value", "documents", "unique_documents", "clusters", "revision", "content",
)  # fmt: skip
TASK_COLUMNS = ("task", "type", "strategy", "kind", "seed", "metric", "value", "documents", "revision", "content")
DIFFERENCE_COLUMNS = ("task", "question", "strategy", "other", "difference", "low", "high", "p_value", "p_holm", "verdict")
METRICS = (
    "v_measure", "v_measure_unique", "ami_unique", "ari_unique", "accuracy_unique", "v_measure_estimated", "ami_estimated",
    "ari_estimated", "accuracy_estimated", "clusters_estimated",
)  # fmt: skip
_FEW_DOCUMENTS = 200
_PERCENT = 100.0
_JOINED = " + "


def long_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Clustering scores, one row per task, strategy, seed, part of the task and metric."""
    rows = []
    for cell in cells[cells["type"] == CLUSTERING].to_dict("records"):
        facts = {name: cell[name] for name in ("task", "strategy", "kind", "seed", "revision", "content")}
        facts |= {name: int(cell[name]) for name in ("documents", "unique_documents", "clusters")}
        for part, metrics in {"all": cell["metrics"], **cell["by_part"]}.items():
            rows += [{**facts, "part": part, "metric": metric, "value": value} for metric, value in metrics.items()]
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS))


def other_tasks_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Main scores of tasks other than clustering, one row per task, strategy and seed."""
    others = cells[cells["type"] != CLUSTERING].to_dict("records")
    rows = [{**cell, "metric": cell["main_score"], "value": cell["metrics"][cell["main_score"]]} for cell in others]
    return pd.DataFrame(rows, columns=list(TASK_COLUMNS))


def compare(
    cells: pd.DataFrame, published: pd.DataFrame, options: EvaluationOptions, embedder_options: EmbedderOptions
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare strategies on each clustering task and, if there are several, on their mean.

    Args:
        cells: Scored cells, see :func:`~embedding_adaptation.pipelines.clustering_evaluation.cells.gather`.
        published: Published scores: ``model``, ``tasks`` (one, or several joined by plus signs whose mean it is), ``score`` (percent),
            ``source``.
        options: Metric, confidence, baseline.
        embedder_options: Definitions of the strategies.

    Returns:
        The comparison, one row per task and strategy; and the tested differences.
    """
    clustering = cells[cells["type"] == CLUSTERING]
    rows: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    by_task: dict[str, dict[str, SeedScores]] = {}
    for name, group in clustering.groupby("task", sort=False):
        task = str(name)
        scores = {str(strategy): _seed_scores(part, options.statistics.metric) for strategy, part in group.groupby("strategy", sort=False)}
        by_task[task] = scores
        tested = _tested(task, scores, _kinds(group), options, embedder_options)
        differences += tested
        caution = _caution(int(group["unique_documents"].max()), scores, options.statistics)
        for strategy, part in group.groupby("strategy", sort=False):
            facts = {
                "unique_documents": int(part["unique_documents"].max()), "clusters": int(part["clusters"].max()), "seeds": len(part),
                **_means(part), "caution": caution,
            }  # fmt: skip
            rows.append(_row(task, str(strategy), part["kind"].iloc[0], facts, scores, tested, options, embedder_options))
        rows += _published_rows(task, [task], published)
    if len(by_task) > 1:
        overall, tested = _all_tasks(rows, by_task, _kinds(clustering), options, embedder_options)
        rows += overall
        rows += _published_rows(ALL_TASKS, list(by_task), published)
        differences += tested
    return pd.DataFrame(rows), pd.DataFrame(differences, columns=list(DIFFERENCE_COLUMNS))


def pivot(comparison: pd.DataFrame) -> pd.DataFrame:
    """Strategies against tasks: V-measure by mteb's protocol in percent, ``**`` around the best, ``=`` behind what is not worse."""

    def cell(row: Mapping[Any, Any]) -> str:
        score = f"{_PERCENT * row['v_measure']:.1f}"
        return {BEST: f"**{score}**", NOT_WORSE: f"{score} ="}.get(str(row["standing"]), score)

    table: dict[str, dict[str, str]] = {}
    for row in comparison.to_dict("records"):
        table.setdefault(str(row["strategy"]), {})[str(row["task"])] = cell(row)
    tasks = list(dict.fromkeys(comparison["task"]))
    return pd.DataFrame([{"strategy": name, **{task: scores.get(task, "") for task in tasks}} for name, scores in table.items()])


def _seed_scores(part: pd.DataFrame, metric: str) -> SeedScores:
    points = np.array([metrics[metric] for metrics in part["metrics"]])  # [S]
    return SeedScores(points, np.stack(part[f"{RESAMPLED}{metric}"].to_list()).astype(np.float64))


def _kinds(group: pd.DataFrame) -> dict[str, str]:
    return dict(zip(group["strategy"], group["kind"], strict=True))


def _means(part: pd.DataFrame) -> dict[str, float]:
    """Mean and standard deviation over seeds of each metric."""
    found: dict[str, float] = {}
    for metric in METRICS:
        values = pd.Series([metrics.get(metric, np.nan) for metrics in part["metrics"]], dtype=float)
        if values.notna().all():
            found[metric] = round(float(values.mean()), 4)
            found[f"{metric}_sd"] = round(float(values.std(ddof=1)), 4) if len(values) > 1 else 0.0
    return found


def _row(
    task: str,
    strategy: str,
    kind: str,
    facts: Mapping[str, Any],
    scores: Mapping[str, SeedScores],
    tested: Sequence[Mapping[str, Any]],
    options: EvaluationOptions,
    embedder_options: EmbedderOptions,
) -> dict[str, Any]:
    chosen = embedder_options.every_strategy.get(strategy) if kind != COMPARATOR else None
    estimate = estimate_score(scores[strategy], options.statistics.confidence)
    said = {str(row["question"]): str(row["verdict"]) for row in tested if row["strategy"] == strategy}
    caution = facts.get("caution", "")
    return {
        "task": task,
        "strategy": strategy,
        "kind": kind,
        "weights": chosen.weights if chosen else "none",
        "template": chosen.title if chosen else "none",
        "pooling": chosen.pooling if chosen else "none",
        "layers": " + ".join(map(str, chosen.layers)) if chosen else "none",
        "after": (chosen.after.title if chosen else "") or "none",
        **{name: value for name, value in facts.items() if name != "caution"},
        "low": round(estimate.low, 4),
        "high": round(estimate.high, 4),
        "standing": _standing(strategy, kind, tested),
        "verdict": said.get("baseline", ""),
        "adaptation": said.get("adaptation", ""),
        "caution": caution,
        "source": "measured",
    }


def _tested(
    task: str,
    scores: Mapping[str, SeedScores],
    kinds: Mapping[str, str],
    options: EvaluationOptions,
    embedder_options: EmbedderOptions,
) -> list[dict[str, Any]]:
    """Three questions, each corrected for the number of its tests: against the baseline, adapted against base, against the best."""
    strategies = [name for name in scores if kinds[name] != COMPARATOR]
    rows: list[dict[str, Any]] = []
    if not strategies:
        return rows
    wanted = options.statistics.baseline
    baseline = wanted if wanted is not None and wanted in scores else strategies[0]
    best = max(strategies, key=lambda name: scores[name].mean)
    twins = {name: embedder_options.base_twin(name, strategies) for name in strategies}
    questions: dict[str, list[tuple[str, str]]] = {
        "baseline": [(name, baseline) for name in scores if name != baseline],
        "adaptation": [(name, twin) for name, twin in twins.items() if twin is not None],
        "best": [(name, best) for name in strategies if name != best],
    }
    for question, pairs in questions.items():
        estimates = [estimate_difference(scores[name], scores[other], options.statistics.confidence) for name, other in pairs]
        corrected = holm([estimate.p_value for estimate in estimates])
        for (name, other), estimate, p_holm in zip(pairs, estimates, corrected, strict=True):
            rows.append(_difference_row(task, question, name, other, estimate, p_holm, len(scores[name].points), options.statistics))
    return rows


def _difference_row(
    task: str, question: str, name: str, other: str, estimate: Estimate, p_holm: float, seeds: int, statistics: StatisticsOptions
) -> dict[str, Any]:
    return {
        "task": task,
        "question": question,
        "strategy": name,
        "other": other,
        "difference": round(estimate.value, 4),
        "low": round(estimate.low, 4),
        "high": round(estimate.high, 4),
        "p_value": estimate.p_value,
        "p_holm": p_holm,
        "verdict": in_words(estimate, p_holm, other, confidence=statistics.confidence, seeds=seeds),
    }


def _standing(strategy: str, kind: str, tested: Sequence[Mapping[str, Any]]) -> str:
    if kind == COMPARATOR:
        return ""
    against = [row for row in tested if row["question"] == "best" and row["strategy"] == strategy]
    if not against:
        return BEST
    return NOT_WORSE if not str(against[0]["verdict"]).startswith("real loss") else WORSE


def _caution(documents: int, scores: Mapping[str, SeedScores], statistics: StatisticsOptions) -> str:
    if documents >= _FEW_DOCUMENTS:
        return ""
    estimates = [estimate_score(score, statistics.confidence) for score in scores.values()]
    widths = [(estimate.high - estimate.low) / 2 for estimate in estimates]
    return f"only {documents} documents: scores are accurate to about {_PERCENT * float(np.median(widths)):.0f} points either way"


def _all_tasks(
    rows: Sequence[Mapping[str, Any]],
    by_task: Mapping[str, Mapping[str, SeedScores]],
    kinds: Mapping[str, str],
    options: EvaluationOptions,
    embedder_options: EmbedderOptions,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mean over tasks of the strategies that were scored on all of them."""
    everywhere = [name for name in next(iter(by_task.values())) if all(name in scores for scores in by_task.values())]
    scores = {name: mean_over_tasks([of_task[name] for of_task in by_task.values()]) for name in everywhere}
    tested = _tested(ALL_TASKS, scores, kinds, options, embedder_options)
    overall = []
    for name in everywhere:
        own = [row for row in rows if row["strategy"] == name and row["kind"] != PUBLISHED]
        facts: dict[str, Any] = {
            "unique_documents": sum(int(row["unique_documents"]) for row in own),
            "seeds": min(int(row["seeds"]) for row in own),
        }
        for metric in METRICS:
            if metric != "clusters_estimated" and all(metric in row for row in own):
                facts[metric] = round(float(np.mean([row[metric] for row in own])), 4)
                # Of a mean of independent means.
                facts[f"{metric}_sd"] = round(float(np.sqrt(np.mean([row[f"{metric}_sd"] ** 2 for row in own]) / len(own))), 4)
        overall.append(_row(ALL_TASKS, name, kinds[name], facts, scores, tested, options, embedder_options))
    return overall, tested


def _published_rows(task: str, names: Sequence[str], published: pd.DataFrame) -> list[dict[str, Any]]:
    """Scores published for exactly these tasks. They have no seeds or resamples, and nothing is tested."""
    return [
        {
            "task": task,
            "strategy": str(record["model"]),
            "kind": PUBLISHED,
            **dict.fromkeys(("weights", "template", "pooling", "layers", "after"), "none"),
            "v_measure": round(float(record["score"]) / _PERCENT, 4),
            **dict.fromkeys(("standing", "verdict", "adaptation", "caution"), ""),
            "source": str(record["source"]),
        }
        for record in published.to_dict("records")
        if set(str(record["tasks"]).split(_JOINED)) == set(names)
    ]
