from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from matplotlib.figure import Figure

from embedding_adaptation.pipelines.strategy_selection import create_pipeline
from embedding_adaptation.pipelines.strategy_selection.nodes import rank_strategies
from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions
from embedding_adaptation.pipelines.strategy_selection.selection import draw_texts, embed_for_ranking, halves
from embedding_adaptation.runtime import fitted_strategies
from embedding_adaptation.texts.stream import TextStream

WORDS = ["bus", "house", "water", "street", "garden", "school", "council", "letter", "library"]
TABLE = pd.DataFrame({"text": [f"{a} the {b} of {c} will come over" for a in WORDS for b in WORDS[:3] for c in WORDS[3:5]]})
TABLE.insert(0, "id", TABLE.index.astype(str))
CORPUS = TextStream.of(TABLE)
GRID = {"templates": ["bare", "one_word"], "poolings": ["last", "mean"], "after": [{}, {"remove_components": 2}]}


def options(**changes):
    values = {"grid": GRID, "max_texts": 40, "clusters": [5], "criteria": ["silhouette", "pair_contrast"], "seed": 0}
    return SelectionOptions.model_validate(values | changes)


def test_strategies_are_ranked_with_every_criterion(tiny_weights, embedder_options):
    catalog = DataCatalog(
        {
            "base_model": MemoryDataset(tiny_weights),
            "corpus": MemoryDataset(CORPUS),
            "params:strategy_selection": MemoryDataset(options()),
            "params:embedder": MemoryDataset(embedder_options()),
        }
    )
    outputs = SequentialRunner().run(create_pipeline(), catalog)
    assert isinstance(outputs["ranking_map"].load(), Figure)
    ranking = rank_strategies(tiny_weights, CORPUS, options(), embedder_options())
    assert set(ranking["strategy"]) == {"bare_mean", "prompted_last", *options().grid.strategies}
    assert ranking["rank"].is_monotonic_increasing
    assert ranking.loc[ranking["strategy"] == "bare.mean.-1.remove2", "after"].item() == "remove2"


def test_vectors_for_ranking_are_those_of_the_embedder(tiny_embedder, embedder_options):
    strategies = options().grid.strategies
    texts = TABLE["text"].head(30).tolist()
    vectors, pairs = embed_for_ranking(tiny_embedder, texts, strategies, embedder_options())
    plain = tiny_embedder.encode(texts, embedder_options().strategy("x", strategies["one_word.last.-1"]), progress=False)
    np.testing.assert_allclose(vectors["one_word.last.-1"], plain, atol=1e-5)
    fitted = tiny_embedder.fit(
        texts,
        embedder_options().strategy("x", strategies["one_word.last.-1"]),
        strategies["one_word.last.-1.remove2"].after.steps,
        progress=False,
    )
    np.testing.assert_allclose(vectors["one_word.last.-1.remove2"], tiny_embedder.encode(texts, fitted, progress=False), atol=1e-4)
    assert pairs["one_word.last.-1"][0].shape == (30, 32)


def test_a_distilled_strategy_is_ranked_as_it_is_used(tiny_embedder, embedder_options):
    strategies = embedder_options().model_dump()["strategies"] | {
        "distilled": {"weights": "base", "template": "one_word", "pooling": "last", "after": {"distil": True}}
    }
    given = embedder_options(strategies=strategies, teacher={"strategy": "bare_mean", "neighbours": 3})
    texts = TABLE["text"].head(30).tolist()
    vectors, _ = embed_for_ranking(tiny_embedder, texts, {"distilled": given.strategies["distilled"]}, given)
    (fitted,) = fitted_strategies(tiny_embedder, {"distilled": given.strategies["distilled"]}, given, lambda: texts)
    np.testing.assert_allclose(vectors["distilled"], tiny_embedder.encode(texts, fitted, progress=False), atol=1e-4)


def test_halves_are_those_of_texts_that_are_long_enough():
    assert halves(["one two three four five six seven", "too short"]) == (["one two three"], ["four five six seven"])


def test_the_draw_has_no_text_twice_and_no_empty_one():
    texts = [*(f"text {i}" for i in range(30)), "text 1", " "]
    drawn = draw_texts(texts, 25, seed=0)
    assert len(drawn) == len(set(drawn)) == 25
    assert " " not in draw_texts(texts, 100, seed=0)


@pytest.mark.parametrize(
    ("corpus", "changes", "message"),
    [
        (TextStream.of(TABLE.head(3)), {}, "needs at least 20 distinct texts, but the corpus has 3;"),
        (CORPUS, {"criteria": ["beauty"]}, "unknown criterion 'beauty' in strategy_selection.criteria; choose from effective_rank"),
        (CORPUS, {"grid": None, "strategies": ["bare_mean"]}, "a ranking needs at least 2 strategies, not 1"),
        (CORPUS, {"strategies": ["none.*"]}, r"unknown strategy 'none.\*' in strategy_selection.strategies; choose from "),
        (CORPUS, {"grid": {"templates": ["none"]}}, "unknown template 'none' in strategy"),
    ],
)
def test_what_cannot_be_ranked_is_an_error_before_any_work(tiny_weights, embedder_options, corpus, changes, message):
    with pytest.raises(ValueError, match=message):
        rank_strategies(tiny_weights, corpus, options(**changes), embedder_options())
