"""The comparison of strategies for its readers: the rows that summarise it, the meaning of its terms, and its form on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from rich.table import Table

# The task built from the catalog's labelled texts, and the mean of all tasks.
LABELLED_TEXTS, ALL_TASKS = "labelled_texts", "all tasks"
PUBLISHED = "published"
BEST, NOT_WORSE, WORSE = "best", "not worse than best", "worse than best"
METRIC_TITLES = {
    "v_measure": "V-measure (mteb)",
    "v_measure_unique": "V-measure (unique)",
    "ami_unique": "AMI (unique)",
}


def overview(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows that summarise a comparison: the mean of all tasks, or the only task."""
    tasks = set(comparison["task"])
    task = ALL_TASKS if ALL_TASKS in tasks else LABELLED_TEXTS if LABELLED_TEXTS in tasks else comparison["task"].iloc[0]
    return comparison[comparison["task"] == task].reset_index(drop=True)


def comparison_table(comparison: pd.DataFrame) -> Table:
    """The comparison of strategies as a table 80 columns wide: mean and standard deviation over seeds, the best in bold.

    For several tasks, it shows their mean.
    """
    from rich.table import Table

    summary = overview(comparison)
    task = str(summary["task"].iloc[0])
    title = "the labelled texts" if task == LABELLED_TEXTS else task
    table = Table(title=f"Clustering of {title}", caption="bold: best; =: not worse than the best", caption_justify="left")
    table.add_column("strategy", no_wrap=True)
    for name in METRIC_TITLES.values():
        table.add_column(name, justify="right")
    for row in summary[summary["kind"] != PUBLISHED].to_dict("records"):
        scores = (f"{row[metric]:.3f} ±{row[f'{metric}_sd']:.3f}" for metric in METRIC_TITLES)
        mark = " =" * (row["standing"] == NOT_WORSE)
        table.add_row(f"{row['strategy']}{mark}", *scores, style="bold" if row["standing"] == BEST else None)
    return table


def exported_score(facts: Mapping[str, Any]) -> tuple[float, str] | None:
    """The V-measure of the exported strategy, and in words how far it is from the best one; ``None`` if it was not scored.

    Args:
        facts: The facts about the exported model.
    """
    scores, name = facts["evaluation"], facts["strategy"]["name"]
    own = scores["adapted"].get("v_measure") if scores else None
    if own is None:
        return None
    best = scores["best"]
    if best["strategy"] == name:
        return own["mean"], "the best strategy"
    return own["mean"], f"{own['mean'] - best['mean']:+.3f} against the best, {best['strategy']}"
