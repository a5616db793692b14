from __future__ import annotations

import io

import pandas as pd
from rich.console import Console

from embedding_adaptation.comparison_table import comparison_table


def comparison(*tasks):
    tasks = tasks or ("labelled_texts",)
    return pd.DataFrame(
        [
            {"task": task, "strategy": name, "kind": kind, "standing": standing, "v_measure": score, "v_measure_sd": 0.01,
             "v_measure_unique": score, "v_measure_unique_sd": 0.0, "ami_unique": score, "ami_unique_sd": 0.0}
            for task in tasks
            for name, kind, standing, score in (
                ("prompted_values_adapted", "adapted", "not worse than best", 0.612),
                ("prompted_last_adapted", "adapted", "best", 0.62),
                ("bare_mean", "base", "worse than best", 0.31),
                ("famous", "published", "", 0.7),
            )
        ]
    )  # fmt: skip


def test_the_table_fits_a_terminal_of_80_columns():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(comparison()))
    text = console.export_text()
    assert "prompted_values_adapted = " in text
    assert "0.612 ±0.010" in text
    assert "…" not in text
    assert "famous" not in text
    assert "Clustering of the labelled texts" in text


def test_of_several_tasks_their_mean_is_shown():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(comparison("one", "two", "all tasks")))
    assert "Clustering of all tasks" in (text := console.export_text())
    assert text.count("bare_mean") == 1
