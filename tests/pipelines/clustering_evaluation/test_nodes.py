from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from embedding_adaptation.datasets.embeddings import Embeddings
from embedding_adaptation.pipelines.clustering_evaluation import scoring
from embedding_adaptation.pipelines.clustering_evaluation.nodes import (
    EvaluationError,
    compare_strategies,
    plot_cluster_map,
    score_strategies,
)
from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions

TEXTS = pd.DataFrame({"id": [str(n) for n in range(40)], "text": [f"t{n}" for n in range(40)], "label": ["ab"[n % 2] for n in range(40)]})
IDS = tuple(TEXTS["id"])


def options(**changes):
    values = {"seeds": [0, 1], "map_strategies": ["prompted_last", "prompted_last_adapted"]}
    return EvaluationOptions.model_validate(values | changes)


def embeddings(*names, ids=IDS):
    rng = np.random.default_rng(0)
    return Embeddings(ids, {name: rng.normal(size=(len(ids), 6)).astype(np.float32) for name in names})


@pytest.fixture
def scored(monkeypatch):
    """mteb's part, minutes of k-means, by a stand-in: it has tests of its own."""
    calls = []

    def fake(vectors, texts, labels, seed):
        calls.append((vectors.copy(), list(texts), list(labels), seed))
        return 0.1 * len(calls), 0.01

    monkeypatch.setattr(scoring, "mteb_scores", fake)
    return calls


def test_every_strategy_and_random_vectors_are_scored_with_every_seed(scored):
    scores = score_strategies(embeddings("bare_mean", "prompted_last"), embeddings("prompted_last_adapted"), TEXTS, options())
    expected = {(name, seed) for name in ("bare_mean", "prompted_last", "prompted_last_adapted", "random") for seed in (0, 1)}
    assert set(zip(scores["strategy"], scores["seed"], strict=True)) == expected
    assert (scores["documents"] == 40).all()
    assert (scores["clusters"] == 2).all()


def test_a_draw_is_the_same_for_all_strategies_of_a_seed(scored):
    score_strategies(embeddings("bare_mean"), embeddings("prompted_last_adapted"), TEXTS, options(max_documents=10))
    by_seed = {seed: {tuple(texts) for _, texts, _, s in scored if s == seed} for seed in (0, 1)}
    assert all(len(draws) == 1 for draws in by_seed.values())
    assert by_seed[0] != by_seed[1]
    vectors, texts, labels, _ = scored[0]
    rows = [int(text[1:]) for text in texts]
    np.testing.assert_array_equal(vectors, embeddings("bare_mean").vectors["bare_mean"][rows])
    assert labels == ["ab"[row % 2] for row in rows]


def test_vectors_of_other_texts_are_refused():
    with pytest.raises(EvaluationError, match="adapted_embeddings hold 40 texts that are not the 40 labelled texts in their order"):
        score_strategies(embeddings("a"), embeddings("b", ids=IDS[::-1]), TEXTS, options())


def test_the_comparison_goes_from_chance_to_adapted_with_mean_and_spread(embedder_options):
    scores = pd.DataFrame(
        [
            {"strategy": name, "seed": seed, "v_measure": 0.1 + seed, "v_measure_unique": 0.2, "ami_unique": 0.3}
            for name in ("prompted_last_adapted", "bare_mean", "random")
            for seed in (0, 1)
        ]
    )
    table = compare_strategies(scores, embedder_options())
    assert table["strategy"].tolist() == ["random", "bare_mean", "prompted_last_adapted"]
    assert table["weights"].tolist() == ["none", "base", "adapted"]
    assert table["v_measure"].tolist() == [0.6, 0.6, 0.6]
    assert table["v_measure_sd"].tolist() == [0.7071] * 3
    one_seed = compare_strategies(scores[scores["seed"] == 0], embedder_options())
    assert one_seed["v_measure_sd"].tolist() == [0.0] * 3


def test_the_map_shows_two_strategies_side_by_side():
    figure = plot_cluster_map(embeddings("prompted_last"), embeddings("prompted_last_adapted"), TEXTS, options())
    assert [axis.get_title() for axis in figure.axes] == ["prompted_last", "prompted_last_adapted"]
    assert all(sum(len(c.get_offsets()) for c in axis.collections) == 40 for axis in figure.axes)
    with pytest.raises(EvaluationError, match="map_strategies names 'prompted_last'; there are: other, more"):
        plot_cluster_map(embeddings("other"), embeddings("more"), TEXTS, options())


@pytest.mark.parametrize("changes", [{"seeds": []}, {"seeds": [1, 1]}, {"max_documents": 1}, {"map_strategies": ["one"]}])
def test_wrong_options_are_refused(changes):
    with pytest.raises(ValidationError):
        options(**changes)
