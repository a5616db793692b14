from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.attention.recording import record_attention
from embedding_adaptation.attention.rows import AttentionError
from embedding_adaptation.datasets.clusters import Clusters
from embedding_adaptation.pipelines.adaptation_page.nodes import (
    PageError,
    attention_of_moved_texts,
    compare_weights,
    find_questions,
    twins,
    write_adaptation_page,
)
from embedding_adaptation.pipelines.adaptation_page.options import PageOptions
from embedding_adaptation.runtime import build_strategy, load_embedder
from embedding_adaptation.texts.stream import TextStream
from embedding_adaptation.verdict.asking import questions_about
from embedding_adaptation.verdict.options import VerdictOptions
from embedding_adaptation.verdict.questions import Question, questions_table
from page_fixtures import ATTENTION

OPTIONS = PageOptions(neighbours=4, moved_texts=2, nearest=2, seed=0)
PRIVATE = OPTIONS.model_copy(update={"private": True})
QUESTION = Question("is this secretword", "one", "other", "base")


def corpus(count):
    texts = [f"{thing} number {row}" for row in range(count) for thing in ("the bus",)]
    return TextStream.of(pd.DataFrame({"id": [f"t{row}" for row in range(count)], "text": texts}))


def clusters(count, strategy="prompted_last"):
    return Clusters(
        np.arange(count, dtype=np.int32) % 2, np.zeros(count, np.float32), np.eye(2, 4, dtype=np.float32), {"strategy": strategy}
    )


@pytest.mark.parametrize("strategy", ["prompted_last", "prompted_last_adapted"])
def test_texts_are_mapped_under_both_weights_whichever_made_the_clusters(tiny_weights, tiny_adapted, store, embedder_options, strategy):
    points, moved = compare_weights(corpus(12), clusters(12, strategy), tiny_weights, tiny_adapted, store, OPTIONS, embedder_options())
    assert len(points) == 12
    assert points["cluster"].tolist() == [row % 2 for row in points["row"]]
    assert all(f"t{row}" == text_id for row, text_id in zip(points["row"], points["id"], strict=True))
    assert np.isfinite(points[["base_x", "base_y", "adapted_x", "adapted_y"]].to_numpy()).all()
    assert set(moved["side"]) <= {"base", "adapted"}
    assert moved.groupby("text").size().tolist() in ([], [4], [4, 4])


def test_few_texts_have_no_map_and_others_are_refused(tiny_weights, tiny_adapted, store, embedder_options):
    points, _ = compare_weights(corpus(4), clusters(4), tiny_weights, tiny_adapted, store, OPTIONS, embedder_options())
    assert points.empty
    with pytest.raises(PageError, match="the 5 labels in text_clusters do not belong to the 4 texts"):
        compare_weights(corpus(4), clusters(5), tiny_weights, tiny_adapted, store, OPTIONS, embedder_options())


MOVED = pd.DataFrame(
    {"text": ["the late bus", "the late bus", "plum cake 🙂"], "side": ["base", "adapted", "base"], "rank": 0, "neighbour": "x"}
)


def test_the_attention_on_each_word_is_that_of_a_recording(tiny_weights, tiny_adapted, embedder_options, tmp_path):
    options = embedder_options()
    words = attention_of_moved_texts(MOVED, tiny_adapted, OPTIONS, options)
    assert words["text"].unique().tolist() == ["the late bus", "plum cake 🙂"]
    assert words[words["part"] == "text"]["word"].tolist() == ["the", "late", "bus", "plum", "cake", "🙂"]
    template = build_strategy(options.adapt, options).templates[0]
    for side, weights in (("base", tiny_weights), ("adapted", tiny_adapted)):
        rows = record_attention(load_embedder(weights, options), template, ["the late bus"], tmp_path / side, progress=False)
        (one,) = rows
        inside = one.row[:, :, one.text_start : one.text_end].mean(axis=(0, 1)).sum()
        found = words[(words["text"] == "the late bus") & (words["part"] == "text")][side].sum()
        assert found == pytest.approx(float(inside), abs=1e-5)
    assert attention_of_moved_texts(MOVED, tiny_adapted, OPTIONS.model_copy(update={"attention_texts": 0}), options).empty


def test_where_no_text_is_shown_no_attention_is_recorded(tiny_adapted, embedder_options, monkeypatch):
    def record(*_args, **_options):
        pytest.fail("attention was recorded")

    monkeypatch.setattr("embedding_adaptation.pipelines.adaptation_page.nodes.AttentionRecording", record)
    assert attention_of_moved_texts(MOVED, tiny_adapted, PRIVATE, embedder_options()).empty


def test_a_model_without_attention_that_can_be_recorded_has_a_page_all_the_same(tiny_adapted, embedder_options, monkeypatch, caplog):
    def refuse(*_args, **_options):
        msg = "layer 1 has no softmax attention"
        raise AttentionError(msg)

    monkeypatch.setattr("embedding_adaptation.pipelines.adaptation_page.nodes.AttentionRecording", refuse)
    assert attention_of_moved_texts(MOVED, tiny_adapted, OPTIONS, embedder_options()).empty
    assert "The page shows no attention: layer 1 has no softmax attention" in caplog.text


def test_a_strategy_needs_its_counterpart(embedder_options):
    options = embedder_options()
    assert twins({"strategy": "prompted_last"}, options) == twins({"strategy": "prompted_last_adapted"}, options)
    with pytest.raises(PageError, match="'bare_mean' of the clusters has no counterpart"):
        twins({"strategy": "bare_mean"}, options)
    with pytest.raises(PageError, match="the clusters' strategy is None"):
        twins({}, options)


@pytest.fixture
def write(tiny_adapted, model_facts, training_report):
    def make(facts=None, options=OPTIONS, questions_of=None, **training):
        about = model_facts | {"adapter": model_facts["adapter"] | {"fingerprint": tiny_adapted.fingerprint()}}
        report = training_report | {"adapter": tiny_adapted.fingerprint()} | training
        points = pd.DataFrame(
            {"text": ["secretword"], "cluster": [0], "base_x": [0.0], "base_y": [0.0], "adapted_x": [1.0], "adapted_y": [1.0]}
        )
        moved = pd.DataFrame({"text": ["secretword"] * 2, "side": ["base", "adapted"], "rank": [0, 0], "neighbour": ["old one", "new one"]})
        summary = pd.DataFrame({"cluster": [0], "name": ["n"], "size": [2], "share": [1.0], "cohesion": [0.5], "words": ["w"]})
        asked = questions_table(tiny_adapted.fingerprint() if questions_of is None else questions_of, [QUESTION])
        history = pd.DataFrame({"step": [1], "train_loss": [1.0]})
        pairs = {"accepted": 1, "candidates": 1, "rejected": {}, "generators": {}}
        about = about if facts is None else facts
        return write_adaptation_page(
            *(corpus(2), points, moved, ATTENTION, asked, clusters(2), summary, tiny_adapted),
            *(about, {}, report, history, pairs, options, VerdictOptions()),
        )

    return make


def test_the_page_shows_neighbours_before_and_after(write):
    page = write()
    assert page.index("old one") < page.index("new one")
    assert "is this secretword" in page
    assert "secretword" not in write(options=PRIVATE)


@pytest.mark.parametrize("name", ["model_facts", "training_report"])
def test_reports_of_another_adapter_are_refused(write, name):
    with pytest.raises(PageError, match=f"{name} is not about the newest adapter"):
        write(**({"facts": {}} if name == "model_facts" else {"adapter": "another"}))


def test_questions_about_another_adapter_are_refused(write):
    with pytest.raises(PageError, match="questions is not about the newest adapter; run 'kedro run --nodes=find_questions_node' first"):
        write(questions_of="another")


def test_the_page_puts_the_questions_of_the_terminal(tiny_weights, tiny_adapted, store, embedder_options):
    options, texts = embedder_options(), corpus(24)
    expected = questions_about(tiny_adapted, texts, VerdictOptions(), options)
    assert expected
    found = find_questions(tiny_adapted, texts, store, OPTIONS, VerdictOptions(), options)
    assert found == questions_table(tiny_adapted.fingerprint(), expected)
    assert find_questions(tiny_adapted, texts, store, PRIVATE, VerdictOptions(), options)["questions"] == []
    # What both weights have read is kept, and not read again.
    strategy = build_strategy(options.adapt, options)
    for weights in (tiny_weights, tiny_adapted):
        key = load_embedder(weights, options).vectors_identity(strategy)
        assert store.missing(key, texts.table()["text"].tolist()) == []
