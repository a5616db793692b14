"""Node of the composite: everything found -> one report."""

from __future__ import annotations

from typing import Any

import pandas as pd

from embedding_adaptation.options import EmbedderOptions

METRIC_TITLES = {
    "v_measure": "V-measure (mteb)",
    "v_measure_unique": "V-measure (unique)",
    "ami_unique": "AMI (unique)",
}


def write_report(
    strategy_comparison: pd.DataFrame,
    attention_shift: pd.DataFrame,
    augmentation_report: dict[str, Any],
    training_history: pd.DataFrame,
    embedder_options: EmbedderOptions,
) -> str:
    """Write the run's findings as Markdown.

    Args:
        strategy_comparison: Scores by strategy.
        attention_shift: Attention shares by layer, and over all layers.
        augmentation_report: Counts of candidates and reasons.
        training_history: Losses by step.
        embedder_options: Templates, for the report's legend.

    Returns:
        The report.
    """
    from embedding_adaptation.pipelines.clustering_evaluation.comparison import BEST, NOT_WORSE, PUBLISHED, overview

    shown = overview(strategy_comparison)
    ours = shown[shown["kind"].isin(["base", "adapted"])]
    best = ours[ours["standing"] == BEST].iloc[0]
    equal = ours[ours["standing"] == NOT_WORSE]["strategy"].tolist()
    gains = [(name, said) for name, said in zip(ours["strategy"], ours["adaptation"], strict=True) if isinstance(said, str) and said]
    tables = [
        line
        for task, rows in strategy_comparison.groupby("task", sort=False)
        for line in _task_table(str(task), rows[rows["kind"] != PUBLISHED], several=strategy_comparison["task"].nunique() > 1)
    ]
    rejected = {reason: count for reason, count in augmentation_report["rejected"].items() if count}
    held_out = training_history.dropna(subset=["validation_loss"])
    first, last = held_out.iloc[0], held_out.iloc[-1]
    overall = attention_shift[attention_shift["layer"].astype(str) == "all"].iloc[0]
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items()) or "none"
    sources = ", ".join(
        f"{name} {counts['accepted']} of {counts['candidates']}" for name, counts in augmentation_report["generators"].items()
    )
    in_table = {name for titles in strategy_comparison["template"] for name in titles.split(" + ")}
    used = [name for name in embedder_options.templates if name in in_table]
    lines = [
        "# Report",
        "",
        "## Clustering of the labelled texts",
        "",
        f"Best: **{best['strategy']}**, V-measure {best['v_measure']:.3f}."
        + (f" Not shown to be worse: {', '.join(equal)}." if equal else "")
        + " Mean ± standard deviation over the seeds.",
        "",
        *(f"- What adaptation gave {name}: {said}." for name, said in gains),
        *([""] if gains else []),
        *tables,
        "*V-measure (mteb)* follows mteb's fast clustering protocol, whose bootstrap counts documents more than once; the *unique* columns "
        "count each document once. AMI is zero where clusters and labels are unrelated: see the random vectors.",
        "",
        "Templates: " + "; ".join(f"{name} = `{embedder_options.template(name).pattern}`" for name in used),
        "",
        "## Positive pairs",
        "",
        f"{augmentation_report['accepted']} of {augmentation_report['candidates']} candidates were accepted ({sources}). "
        f"Rejected: {reasons}.",
        "",
        "## Fine-tuning",
        "",
        f"{int(training_history['step'].max())} steps. Held-out loss {first['validation_loss']:.3f} before, "
        f"{last['validation_loss']:.3f} after; held-out accuracy at 1 {first['validation_accuracy']:.3f} before, "
        f"{last['validation_accuracy']:.3f} after.",
        "",
        "## Attention of the last token (mean over texts and layers)",
        "",
        "| on | base | adapted | shift |",
        "|---|---|---|---|",
        *(
            f"| {segment} | {overall[f'{segment}_base']:.3f} | {overall[f'{segment}_adapted']:.3f} | {overall[f'{segment}_shift']:+.3f} |"
            for segment in ("text", "prompt", "sink")
        ),
        "",
    ]
    return "\n".join(lines)


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
