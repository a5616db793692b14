from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.attention.recording import record_attention
from embedding_adaptation.attention.rows import TextAttention
from embedding_adaptation.attention.shares import PARTS, Spans, measure_rows, measure_words, row_measures
from embedding_adaptation.attention.words import WORD_KINDS
from embedding_adaptation.embedder.template import PromptTemplate

#         sink  pre   The   bus   12    ?     suf   self
WEIGHTS = [0.30, 0.05, 0.05, 0.20, 0.10, 0.04, 0.06, 0.20]
ONE = TextAttention("a", "The bus 12?", np.array([[WEIGHTS]], np.float32), 2, ((0, 3), (3, 7), (7, 10), (10, 11)), cut=False)


def measured(one, spans):
    return dict(zip(spans.measures, row_measures(one, spans)[0, 0].tolist(), strict=True))


def test_shares_of_a_row_by_hand():
    found = measured(ONE, Spans(patterns={"vehicle": "bus|tram", "short": ".{1,2}"}, top_k=2))
    expected = {
        "sink": 0.3, "prefix": 0.05, "text": 0.39, "suffix": 0.06, "self": 0.2,
        "content": 0.2, "function": 0.05, "number": 0.1, "punctuation": 0.04, "vehicle": 0.2, "short": 0.14,
        "top_k": 0.4, "text_relative": 0.39 * 8 / 4, "entropy": -sum(w * np.log(w) for w in WEIGHTS),
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)


def test_spans_can_be_defined_otherwise():
    found = measured(ONE, Spans(sink_tokens=2, separate_self=False, function_words={"bus"}))
    assert found["sink"] == pytest.approx(0.35)
    assert found["self"] == 0
    assert found["suffix"] == pytest.approx(0.26)
    assert found["content"] == pytest.approx(0.05)
    assert found["function"] == pytest.approx(0.2)


def test_a_text_without_tokens_has_no_share_and_no_relative_one():
    found = measured(TextAttention("a", "", np.array([[[0.5, 0.5]]], np.float32), 1, (), cut=False), Spans())
    assert found["text"] == found["content"] == 0
    assert np.isnan(found["text_relative"])


def test_a_single_token_is_the_sink():
    found = measured(TextAttention("a", "a", np.array([[[1.0]]], np.float32), 0, ((0, 1),), cut=False), Spans())
    assert found["sink"] == 1
    assert found["top_k"] == found["text"] == found["self"] == 0


def test_shares_add_up_for_every_text_layer_and_head_and_examples_are_left_out(recorded, monkeypatch):
    import embedding_adaptation.attention.shares as module

    monkeypatch.setattr(module, "_PIECE", 2)
    pieces = list(measure_rows(recorded["base"], Spans()))
    assert [len(piece) for piece in pieces] == [24, 24, 12]
    frame = pd.concat(pieces)
    np.testing.assert_allclose(frame[list(PARTS)].sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(frame[list(WORD_KINDS)].sum(axis=1), frame["text"], atol=1e-5)
    assert frame["id"].drop_duplicates().tolist() == ["t0", "t1", "t2", "t3", "t4"]
    assert frame["layer"].head(5).tolist() == [1, 1, 1, 1, 2]
    assert frame["head"].head(5).tolist() == [0, 1, 2, 3, 0]


def test_words_hold_all_attention_and_agree_with_the_shares(recorded):
    words = pd.concat(list(measure_words(recorded["base"], Spans())))
    np.testing.assert_allclose(words.groupby("id")["attention"].sum(), 1.0, atol=1e-5)
    shares = pd.concat(list(measure_rows(recorded["base"], Spans()))).groupby("id")["content"].mean()
    content = words[(words["kind"] == "content") & ~words["example"]].groupby("id")["attention"].sum()
    np.testing.assert_allclose(content, shares, atol=1e-5)
    assert words.loc[words["example"], "id"].unique().tolist() == ["example 1"]


def test_words_average_over_the_layers_asked_for(recorded):
    last = pd.concat(list(measure_words(recorded["base"], Spans(), [3])))
    one = next(iter(recorded["base"]))
    sink = last[(last["id"] == one.id) & (last["part"] == "sink")]["attention"].item()
    assert sink == pytest.approx(one.row[2, :, 0].mean(), abs=1e-6)


def test_words_behind_the_cut_are_told(tiny_embedder, tmp_path):
    template = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
    rows = record_attention(tiny_embedder, template, ["water " * 60, "bus"], tmp_path / "rows", progress=False)
    words = pd.concat(list(measure_words(rows, Spans())))
    assert words.groupby("id")["cut"].all().tolist() == [True, False]
    assert 0 < (words[(words["id"] == "1")]["part"] == "text").sum() < 60
