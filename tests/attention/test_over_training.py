from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.attention.over_training import attention_over_training, relate_to_quality
from embedding_adaptation.checkpoint_folders import CheckpointError, checkpoint_folders
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.template import PromptTemplate

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
TEXTS = ["the bus is late", "a house on the street", "who will come"]
LOAD = partial(Embedder.load, device="cpu", dtype="float32", max_length=64)


def test_every_checkpoint_is_measured_and_compared_with_the_base_model(tiny_weights, checkpoints):
    table = attention_over_training(tiny_weights, checkpoint_folders(checkpoints), LOAD, ONE_WORD, TEXTS, progress=False, resamples=50)
    assert table["step"].drop_duplicates().tolist() == [0, 10, 25, 50]
    assert set(table["layer"]) == {"1", "2", "3", "all"}
    first = table[table["step"] == 0]
    assert (first["shift"].dropna() == 0).all()
    later = table[table["step"] == 25].set_index(["layer", "measure"])
    before = first.set_index(["layer", "measure"])
    np.testing.assert_allclose(later["mean"] - before["mean"], later["shift"], atol=3e-5)
    assert later["shift"].abs().max() > 1e-3
    parts = table[(table["layer"] == "all") & table["measure"].isin(["sink", "prefix", "text", "suffix", "self"])]
    np.testing.assert_allclose(parts.groupby("step")["mean"].sum(), 1.0, atol=1e-4)


def test_a_checkpoint_that_is_not_there_is_named_before_any_work(tiny_weights, tmp_path):
    def load(_):
        raise AssertionError

    with pytest.raises(CheckpointError, match="checkpoint of step 7 is missing"):
        attention_over_training(tiny_weights, {7: tmp_path}, load, ONE_WORD, TEXTS)
    with pytest.raises(CheckpointError, match="no checkpoint other than step 0"):
        attention_over_training(tiny_weights, {0: tmp_path}, load, ONE_WORD, TEXTS)


STEPS = [0, 10, 25, 50, 100, 200, 400]


def by_step(**measures):
    rows = [
        {"step": step, "layer": "all", "measure": name, "mean": value}
        for name, values in measures.items()
        for step, value in zip(STEPS, values, strict=True)
    ]
    return pd.DataFrame([*rows, {"step": 0, "layer": "1", "measure": "text", "mean": 9.0}])


def test_a_signal_that_follows_quality_says_when_to_stop():
    attention = by_step(text=[0.1, 0.2, 0.3, 0.4, 0.35, 0.3, 0.2], sink=[0.5, 0.4, 0.3, 0.2, 0.3, 0.4, 0.5])
    quality = [0.30, 0.40, 0.50, 0.60, 0.55, 0.51, 0.41]
    scores = pd.DataFrame({"step": STEPS, "v_measure": quality, "uniformity": range(7), "name": list("abcdefg")})
    table = relate_to_quality(attention, scores, resamples=200).set_index("signal")
    assert table.index.tolist() == ["text", "sink", "uniformity"]
    assert table.loc["text", "rank_correlation"] > 0.9
    assert table.loc["text", ["highest_at", "lost_at_highest"]].tolist() == [50, 0]
    assert table.loc["sink", ["lowest_at", "lost_at_lowest"]].tolist() == [50, 0]
    assert table.loc["uniformity", ["highest_at", "lost_at_highest"]].tolist() == [400, pytest.approx(0.19)]
    assert table.loc["uniformity", "kind"] == "score"
    assert (table["low"] <= table["rank_correlation"]).all()
    assert (table["rank_correlation"] <= table["high"]).all()


def test_steps_without_a_score_are_left_out():
    attention = by_step(text=range(7))
    scores = pd.DataFrame({"step": STEPS, "v_measure": [0.1, None, 0.2, 0.3, None, 0.4, 0.5], "empty": [np.nan] * 7})
    table = relate_to_quality(attention, scores, resamples=20)
    assert table["signal"].tolist() == ["text"]
    assert table["steps"].tolist() == [5]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"step": STEPS}, "no column 'v_measure'"),
        ({"v_measure": [0.1]}, "no column 'step'"),
        ({"step": [0, 0, 10], "v_measure": [0.1, 0.2, 0.3]}, "contain step 0 twice"),
        ({"step": [0, 10, 11], "v_measure": [0.1, 0.2, 0.3]}, r"share 2 steps \[0, 10\]"),
    ],
)
def test_scores_that_cannot_be_related_are_named(scores, message):
    with pytest.raises(CheckpointError, match=message):
        relate_to_quality(by_step(text=range(7)), pd.DataFrame(scores))
