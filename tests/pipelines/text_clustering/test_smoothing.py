from __future__ import annotations

import logging

import numpy as np
import pytest

from embedding_adaptation.pipelines.text_clustering.smoothing import Smoothing
from embedding_adaptation.vectors.smoothing import smoothed
from embedding_adaptation.vectors.store import VectorStore


@pytest.mark.parametrize(
    ("texts", "changes", "neighbours", "title"),
    [
        (1000, {}, 10, "averaged with nearest neighbours (10, rounds: 1)"),
        (499, {}, 9, "averaged with nearest neighbours (9, rounds: 1)"),
        (1000, {"smoothing": {"neighbours": 5, "rounds": 2}}, 5, "averaged with nearest neighbours (5, rounds: 2)"),
        (49, {}, 0, "none: 49 texts are fewer than 50"),
        (20_000, {}, 10, "averaged with nearest neighbours (10, rounds: 1)"),
        (20_001, {}, 0, "none: 20,001 texts are more than text_clustering.smoothing.max_texts (20,000)"),
        (
            1000,
            {"method": "hdbscan"},
            0,
            "none: hdbscan decides itself which texts form groups, and smoothing would make groups of any texts",
        ),
        (1000, {"smoothing": None}, 0, "none"),
    ],
)
def test_how_vectors_are_smoothed_and_what_is_said_of_it(make_options, caplog, texts, changes, neighbours, title):
    smoothing = Smoothing.of(texts, make_options(**changes))
    assert smoothing.neighbours == neighbours
    assert smoothing.facts["smoothing"] == title
    with caplog.at_level(logging.INFO):
        smoothing.log()
    reason = "" if title == "none" else title.removeprefix("none: ")
    logged = f"each vector is averaged with its {neighbours} nearest" if neighbours else f"vectors are not smoothed: {reason}"
    assert (logged in caplog.text) == bool(reason)
    restored = Smoothing.recorded({"method": "kmeans", **smoothing.facts})
    assert (restored.neighbours, restored.rounds) == (smoothing.neighbours, smoothing.rounds)


def test_all_vectors_are_smoothed_in_order_and_their_facts_stay():
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    store = VectorStore.of(vectors, {"strategy": "x"})
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    made = Smoothing(3, 2).store(store)
    np.testing.assert_allclose(made.take(np.arange(30)), smoothed(unit, neighbours=3, rounds=2), atol=1e-6)
    assert made.facts == {"strategy": "x"}
    assert Smoothing().store(store) is store
