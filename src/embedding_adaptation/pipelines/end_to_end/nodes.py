"""Node of the whole chain: results -> one report."""

from __future__ import annotations

from typing import Any

import pandas as pd

from embedding_adaptation.comparison_table import BEST, METRIC_TITLES, NOT_WORSE, PUBLISHED, overview
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.wording import budget_sentences

_ATTENTION_TITLES = {
    "text": "the text",
    "content": "its content words",
    "prefix": "template before the text",
    "suffix": "template after the text",
    "self": "the last token itself",
    "sink": "first token (sink)",
}


def write_report(
    strategy_comparison: pd.DataFrame,
    attention_summary: pd.DataFrame,
    augmentation_report: dict[str, Any],
    training_report: dict[str, Any],
    model_facts: dict[str, Any],
    embedder_options: EmbedderOptions,
) -> str:
    """Write the run's findings as Markdown.

    Args:
        strategy_comparison: Scores by strategy.
        attention_summary: Attention shares over all layers, one row per measure.
        augmentation_report: Counts of candidates and reasons.
        training_report: Steps, measures on held-out pairs before and after, and costs.
        model_facts: The facts about the exported model.
        embedder_options: Templates, for the legend.

    Returns:
        The report.
    """
    summary = overview(strategy_comparison)
    ours = summary[summary["kind"].isin(["base", "adapted"])]
    best = ours[ours["standing"] == BEST].iloc[0]
    not_worse = ours[ours["standing"] == NOT_WORSE]["strategy"].tolist()
    gains = [(name, gain) for name, gain in zip(ours["strategy"], ours["adaptation"], strict=True) if isinstance(gain, str) and gain]
    tables = [
        line
        for task, rows in strategy_comparison.groupby("task", sort=False)
        for line in _task_table(str(task), rows[rows["kind"] != PUBLISHED], several=strategy_comparison["task"].nunique() > 1)
    ]
    rejected = {reason: count for reason, count in augmentation_report["rejected"].items() if count}
    overall = attention_summary.set_index("measure").to_dict("index")
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items()) or "none"
    sources = ", ".join(
        f"{name} {counts['accepted']} of {counts['candidates']}" for name, counts in augmentation_report["generators"].items()
    )
    budget = "".join(f" {line}." for line in budget_sentences(augmentation_report.get("budget", {})))
    in_table = {name for titles in strategy_comparison["template"] for name in titles.split(" + ")}
    used = [name for name in embedder_options.templates if name in in_table]
    lines = [
        "# Report",
        "",
        "## Clustering of the labelled texts",
        "",
        f"Best: **{best['strategy']}**, V-measure {best['v_measure']:.3f}."
        + (f" Not shown to be worse: {', '.join(not_worse)}." if not_worse else "")
        + " Mean ± standard deviation over the seeds.",
        "",
        *(f"- {line}" for line in exported_lines(ours, model_facts["strategy"]["name"])),
        *(f"- {sentence}" for sentence in _verdict(model_facts)),
        *(f"- Effect of adaptation on {name}: {gain}." for name, gain in gains),
        "",
        *tables,
        "*V-measure (mteb)* follows mteb's fast clustering protocol, whose bootstrap counts documents more than once; the *unique* columns "
        "count each document once. AMI is zero where clusters and labels are unrelated: see the random vectors.",
        "",
        "Templates: " + "; ".join(f"{name} = `{embedder_options.template(name).pattern}`" for name in used),
        "",
        "## Positive pairs",
        "",
        f"{augmentation_report['accepted']} of {augmentation_report['candidates']} candidates were accepted ({sources}). "
        f"Rejected: {reasons}.{budget}",
        "",
        "## Fine-tuning",
        "",
        _training(training_report),
        "",
        *cost_lines(training_report.get("cost", {}), summary, model_facts["strategy"]["name"], embedder_options),
        "## Attention of the last token (mean over texts and layers)",
        "",
        "| on | base | adapted | shift | interval |",
        "|---|---|---|---|---|",
        *(_attention_line(title, overall[measure]) for measure, title in _ATTENTION_TITLES.items()),
        "",
        "The shift is the mean of paired differences over texts, with its bootstrap interval. The sink is the first token of the sequence; "
        "content words are part of the text. By layer and head: `attention_shift`, `attention_heads`.",
        "",
    ]
    return "\n".join(lines)


def exported_lines(ours: pd.DataFrame, exported: str) -> list[str]:
    """What is exported, its score, and how far it is from the best strategy.

    Args:
        ours: Rows of :func:`~embedding_adaptation.comparison_table.overview` for base and adapted strategies, the best one marked.
        exported: Name of the exported strategy.
    """
    rows = ours[ours["strategy"] == exported]
    if rows.empty:
        return [f"Exported: **{exported}**, which was not evaluated."]
    row, best = rows.iloc[0], ours[ours["standing"] == BEST].iloc[0]
    if row["standing"] == BEST:
        return [f"Exported: **{exported}**, the best strategy."]
    proof = " (not shown to be worse)" if row["standing"] == NOT_WORSE else ""
    difference = row["v_measure"] - best["v_measure"]
    return [f"Exported: **{exported}**, V-measure {row['v_measure']:.3f}; {difference:+.3f} against {best['strategy']}{proof}."]


def _verdict(facts: dict[str, Any]) -> list[str]:
    verdict = facts.get("verdict")
    return [verdict["sentence"]] if verdict else []


def _attention_line(title: str, row: dict[Any, Any]) -> str:
    low, high = (f"{row[f'shift_{end}']:+.3f}" for end in ("low", "high"))
    return f"| {title} | {row['base']:.3f} | {row['adapted']:.3f} | {row['shift']:+.3f} | {low} to {high} |"


def _task_table(task: str, rows: pd.DataFrame, *, several: bool) -> list[str]:
    caution = next((text for text in rows["caution"] if isinstance(text, str) and text), "")
    return [
        *([f"### {task}", ""] if several else []),
        *([f"{caution}.", ""] if caution else []),
        "| strategy | weights | template | pooling | " + " | ".join(METRIC_TITLES.values()) + " |",
        "|---|---|---|---|" + "---|" * len(METRIC_TITLES),
        *(_comparison_line(row) for _, row in rows.iterrows()),
        "",
    ]


def _comparison_line(row: pd.Series) -> str:
    scores = " | ".join(f"{row[metric]:.3f} ± {row[f'{metric}_sd']:.3f}" for metric in METRIC_TITLES)
    return f"| {row['strategy']} | {row['weights']} | {row['template']} | {row['pooling']} | {scores} |"


def _training(report: dict[str, Any]) -> str:
    step, last_step = report["trained"]["step"], report["trained"]["last_step"]
    kept = f", of which step {step} was kept" if step < last_step else ""
    measures = {"validation_loss": "loss", "validation_accuracy": "accuracy at 1"}
    held_out = (
        f"held-out {title} {values['before']:.3f} before, {values['after']:.3f} after"
        for name, title in measures.items()
        if (values := report["history"].get(name))
    )
    return ". ".join([f"{last_step} steps{kept}", *filter(None, ["; ".join(held_out).capitalize()])]) + "."


_COSTS = {"seconds": "seconds", "texts": "texts read", "tokens": "tokens computed", "operations": "TFLOP", "joules": "joules (CPU package)"}


def cost_lines(costs: dict[str, float], comparison: pd.DataFrame, exported: str, options: EmbedderOptions) -> list[str]:
    """The cost of training and its gain as lines of Markdown; none without costs.

    Args:
        costs: Totals, named as in the training history.
        comparison: Scores by strategy.
        exported: Name of the exported strategy, which is compared with the one that differs from it only in its weights.
        options: The strategies.
    """
    if not costs:
        return []
    gain = _gain(comparison, exported, options)
    lines = ["| cost of training | total | per point of V-measure gained |", "|---|---|---|"]
    for name, title in _COSTS.items():
        if name not in costs:
            continue
        total = costs[name] / 1e12 if name == "operations" else costs[name]
        share = f"{total / gain:,.0f}" if gain and gain > 0 else "no gain" if gain is not None else "not scored"
        lines.append(f"| {title} | {total:,.0f} | {share} |")
    if gain is not None:
        lines += ["", f"Gain: {gain:+.1f} points of V-measure (mteb) for {exported}. TFLOP: linear layers, calculated by formula."]
    return [*lines, ""]


def _gain(comparison: pd.DataFrame, exported: str, options: EmbedderOptions) -> float | None:
    """Points between the exported strategy and its counterpart with base weights; ``None`` if either was not evaluated."""
    scores = comparison.set_index("strategy")["v_measure"]
    if exported not in scores:
        return None
    if exported in options.every_strategy and options.every_strategy[exported].weights == "base":
        return 0.0
    before = options.base_twin(exported, scores.index)
    return None if before is None else 100 * float(scores[exported] - scores[before])
