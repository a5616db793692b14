from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.attention.comparison import PairingError
from embedding_adaptation.attention.faithfulness import compare_faithfulness, occlude_words, word_ranks
from embedding_adaptation.attention.shares import Spans, measure_words
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')


def test_the_effect_of_a_word_is_how_far_the_vector_moves_without_it(tiny_embedder):
    table = occlude_words(tiny_embedder, ONE_WORD, ["the bus is late, please"], ["a"], progress=False)
    assert table["word"].tolist() == ["the", "bus", "is", "late", "please"]
    whole, without = tiny_embedder.encode(
        ["the bus is late, please", "the bus is, please"], Strategy("s", ONE_WORD, "last"), progress=False
    )
    assert table["effect"].iloc[3] == pytest.approx(1 - float(whole @ without), abs=1e-6)
    assert (table["effect"] > 0).all()


def test_short_texts_are_passed_over_and_long_ones_thinned(tiny_embedder):
    texts = ["a bus", " ".join(f"w{n}" for n in range(60))]
    table = occlude_words(tiny_embedder, ONE_WORD, texts, ["short", "long"], progress=False)
    assert table["id"].unique().tolist() == ["long"]
    assert len(table) == 12
    assert table["start"].is_monotonic_increasing
    assert occlude_words(tiny_embedder, ONE_WORD, texts[:1], ["short"], progress=False).empty


def test_attention_that_follows_the_effects_correlates_with_them(recorded):
    rows = recorded["base"]
    words = pd.concat(list(measure_words(rows, Spans())))
    inside = words[(words["part"] == "text") & (words["kind"] != "punctuation") & ~words["example"] & words["id"].isin(["t0", "t1"])]
    follows = inside.assign(effect=inside["attention"] ** 3)[["id", "start", "end", "word", "kind", "effect"]]
    ranks = word_ranks(rows, follows, Spans())
    assert ranks["id"].tolist() == ["t0", "t1"]
    assert ranks["all"].tolist() == pytest.approx([1.0, 1.0])
    table = compare_faithfulness(ranks, word_ranks(rows, follows.assign(effect=-follows["effect"]), Spans()), resamples=50)
    assert table["layer"].tolist() == ["1", "2", "3", "all", "tokens"]
    overall = table.set_index("layer").loc["all"]
    assert overall[["base", "adapted", "shift"]].tolist() == pytest.approx([1, -1, -2])
    assert overall["texts"] == 2


def test_texts_that_were_not_recorded_or_differ_are_an_error(recorded):
    occlusion = pd.DataFrame({"id": ["zz"], "start": [0], "end": [3], "word": ["the"], "kind": ["function"], "effect": [0.1]})
    with pytest.raises(PairingError, match="'zz' was occluded but its attention was not recorded"):
        word_ranks(recorded["base"], occlusion, Spans())
    with pytest.raises(PairingError, match="different texts"):
        compare_faithfulness(pd.DataFrame({"id": ["a"], "all": [0.1]}), pd.DataFrame({"id": ["b"], "all": [0.1]}))


def test_no_occluded_text_gives_a_table_without_values(recorded):
    nothing = pd.DataFrame({"id": [], "start": [], "end": [], "word": [], "kind": [], "effect": []})
    ranks = word_ranks(recorded["base"], nothing, Spans())
    table = compare_faithfulness(ranks, ranks)
    assert table["texts"].tolist() == [0] * 5
    assert np.isnan(table["base"]).all()
