"""A clock that is set back between two runs."""

from __future__ import annotations

import pandas as pd
import pytest

from faults.chain import ClockSetBack, copied, kedro
from faults.results import newest

pytestmark = pytest.mark.faults


def test_the_newest_made_is_the_newest_loaded_when_the_clock_is_set_back(stages, tmp_path):
    stage = stages("data_augmentation")
    project = copied(stage.after, tmp_path / "project")
    corpus = tmp_path / "other.txt"
    things = ("house", "garden", "library", "street", "council", "bus")
    corpus.write_text("".join(f"my own {thing} needs {need}\n" for thing in things for need in ("water", "help", "more time", "a letter")))
    back = kedro(project, *stage.arguments, "--params", f"corpus={corpus}", fault=ClockSetBack())
    assert back.code == 0, back.output[-2000:]
    assert "a later one exists" in back.output
    results = newest(project)
    pairs = pd.read_parquet(results["03_primary/positive_pairs.parquet"])
    assert pairs["source_text"].str.startswith("my own").all()
    assert len({place.parent.name for name, place in results.items() if "base_model" not in name}) == 1
    later = kedro(project, "--pipelines=contrastive_finetuning")
    assert later.code == 0, later.output[-2000:]
    assert pd.read_parquet(newest(project)["05_model_input/train_pairs.parquet"])["source_text"].str.startswith("my own").all()
