from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.attention.comparison import (
    PairingError,
    compare_heads,
    compare_layers,
    compare_words,
    layer_values,
    paired_words,
)
from embedding_adaptation.attention.shares import Spans, measure_rows, measure_words


@pytest.fixture(scope="module")
def shares(recorded):
    return {name: pd.concat(list(measure_rows(rows, Spans())), ignore_index=True) for name, rows in recorded.items()}


@pytest.fixture(scope="module")
def words(recorded):
    return {name: pd.concat(list(measure_words(rows, Spans())), ignore_index=True) for name, rows in recorded.items()}


def test_shifts_are_paired_means_with_intervals_for_each_layer_and_over_all(shares):
    table = compare_layers(shares["base"], shares["adapted"], resamples=200)
    assert table["layer"].drop_duplicates().tolist() == ["1", "2", "3", "all"]
    by_text = {name: frame[frame["layer"] == 2].groupby("id")["text"].mean() for name, frame in shares.items()}
    row = table[(table["layer"] == "2") & (table["measure"] == "text")].iloc[0]
    assert row["base"] == pytest.approx(by_text["base"].mean(), abs=1e-4)
    assert row["shift"] == pytest.approx((by_text["adapted"] - by_text["base"]).mean(), abs=1e-4)
    known = table.dropna(subset=["shift"])
    assert (known["shift_low"] <= known["shift"] + 1e-5).all()
    assert (known["shift"] <= known["shift_high"] + 1e-5).all()
    np.testing.assert_allclose(known["adapted"] - known["base"], known["shift"], atol=3e-5)


def test_ratios_are_taken_after_the_mean_over_heads(shares):
    values, layers, measures = layer_values(shares["base"])
    assert layers[-1] == "all"
    place = {name: measures.index(name) for name in ("text", "sink", "content", "text_without_sink", "content_of_text")}
    np.testing.assert_allclose(values[..., place["text_without_sink"]], values[..., place["text"]] / (1 - values[..., place["sink"]]))
    np.testing.assert_allclose(values[..., place["content_of_text"]], values[..., place["content"]] / values[..., place["text"]])


def test_equal_models_show_no_shift(shares):
    table = compare_layers(shares["base"], shares["base"], resamples=20).dropna()
    assert (table[["shift", "shift_low", "shift_high"]] == 0).all(axis=None)


def test_heads_that_changed_most_come_first(shares):
    changed = shares["base"].copy()
    chosen = (changed["layer"] == 2) & (changed["head"] == 3)
    changed.loc[chosen, "text"] -= 0.2
    table = compare_heads(shares["base"], changed, resamples=20)
    assert table.loc[0, ["layer", "head"]].tolist() == [2, 3]
    assert table.loc[0, "text_shift"] == pytest.approx(-0.2, abs=1e-5)
    assert len(table) == 12
    assert (table["text_shift"].iloc[1:] == 0).all()


def test_words_are_ranked_by_gain_and_rare_ones_left_out(words):
    gained = words["base"].copy()
    gained.loc[(gained["word"].str.lower() == "bus") & (gained["part"] == "text"), "attention"] += 0.1
    table = compare_words(words["base"], gained, min_texts=2, resamples=50)
    assert table.loc[0, "word"] == "bus"
    assert table.loc[0, ["shift", "shift_low", "shift_high"]].tolist() == pytest.approx([0.1] * 3, abs=1e-4)
    assert table.loc[0, "texts"] == 2  # the example does not count
    assert set(table["word"]) == {"bus", "the", "a", "take"} - {"a"}
    assert compare_words(words["base"], gained, min_texts=50).empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(id=frame["id"] + "x"), "different ids"),
        (lambda frame: frame[frame["layer"] > 1], "different ids"),
        (lambda frame: frame.assign(layer=4 - frame["layer"]), "different layers"),
        (lambda frame: frame.drop(columns="content"), "measured differently"),
    ],
)
def test_measurements_of_other_texts_or_layers_are_not_compared(shares, change, message):
    for compare in (compare_layers, compare_heads):
        with pytest.raises(PairingError, match=message):
            compare(shares["base"], change(shares["base"]))


def test_words_of_other_texts_are_not_paired(words):
    with pytest.raises(PairingError, match="come from different texts"):
        paired_words(words["base"], words["base"].iloc[1:])
