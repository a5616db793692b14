from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from embedding_adaptation.headlines import METRICS, Headlines, used_texts

DIFFERENCES = pd.DataFrame(
    {
        "task": ["labelled_texts", "labelled_texts", "other"],
        "question": ["adaptation", "best", "adaptation"],
        "strategy": ["prompted_last_adapted"] * 3,
        "difference": [0.2, -0.1, 0.9],
        "low": [0.1, -0.2, 0.8],
        "high": [0.3, 0.0, 1.0],
    }
)


def test_the_gain_of_the_exported_strategy_comes_with_its_interval(model_facts):
    headlines = Headlines()
    assert headlines.of("differences", DIFFERENCES) == ({}, {})
    metrics, tags = headlines.of("model", model_facts)
    name = model_facts["strategy"]["name"]
    assert tags == {"exported.strategy": name}
    assert metrics["exported_score"] == model_facts["evaluation"]["adapted"]["v_measure"]["mean"]
    assert (metrics["gain_low"], metrics["gain"], metrics["gain_high"]) == (0.1, 0.2, 0.3)


def test_a_model_without_scores_has_no_score(model_facts):
    assert Headlines().of("model", model_facts | {"evaluation": None})[0] == {}


@pytest.mark.parametrize(("said", "number"), [("better", 1.0), ("no_difference", 0.0), ("worse", -1.0), ("cannot_tell", None)])
def test_the_verdict_is_a_number_a_tag_and_the_description(said, number):
    metrics, tags = Headlines().of("verdict", {"verdict": said, "sentence": "So it is."})
    assert metrics.get("adaptation_verdict") == number
    assert tags == {"verdict": said, "mlflow.note.content": "So it is."}
    assert Headlines().of("verdict", {}) == ({}, {})


def test_the_best_strategy_is_that_of_the_labelled_texts():
    comparison = pd.DataFrame(
        {"task": ["labelled_texts", "labelled_texts", "other"], "strategy": ["a", "b", "c"], "standing": ["best", "", "best"],
         "v_measure": [0.7, 0.6, 0.9]}
    )  # fmt: skip
    assert Headlines().of("comparison", comparison) == ({"best_score": 0.7}, {"best.strategy": "a"})
    assert Headlines().of("comparison", comparison[comparison["task"] == "other"]) == ({}, {})


def test_counts_are_taken_where_they_are():
    assert Headlines().of("corpus", {"kept": 7})[0] == {"number_of_texts": 7.0}
    assert Headlines().of("corpus", {})[0] == {}
    assert Headlines().of("clusters", {"clusters": 2, "cohesion": None})[0] == {"number_of_clusters": 2.0}


def test_headlines_come_before_the_training_curve():
    assert sorted([*METRICS, "training_history.alignment"])[-1] == "training_history.alignment"


def test_the_documentation_lists_the_headlines():
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "track.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", page.partition("| metric |")[2].partition("\n\n")[0], re.M))
    assert rows == METRICS


def test_used_texts_are_known_by_digest_and_size_and_hold_no_text():
    report = {
        "corpus": "mine.csv",
        "texts": 9,
        "kept": 7,
        "identity": {"raw": "r" * 32, "clean": "c"},
        "examples": {"short": ["secretword"]},
    }
    used = used_texts(report)
    assert used == {"name": "mine.csv", "digest": "r" * 32, "profile": {"num_rows": 9, "clean_texts": 7}}
    assert "secretword" not in json.dumps(used)
    data = {"name": "l.csv", "texts": 5, "labels": 2, "revision": "", "fingerprint": "f"}
    assert used_texts({"data": data}) == {"name": "l.csv", "digest": "f", "profile": {"num_rows": 5, "labels": 2}}
    assert used_texts({}) is None
