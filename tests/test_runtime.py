from __future__ import annotations

import numpy as np

from embedding_adaptation.options import StrategyOptions
from embedding_adaptation.runtime import build_strategy, fitted_strategies, load_embedder


def test_after_processing_is_fitted_only_where_a_strategy_asks_for_it(tiny_weights, embedder_options):
    options = embedder_options()
    embedder = load_embedder(tiny_weights, options)
    plain = {"bare_mean": options.strategies["bare_mean"]}
    (untouched,) = fitted_strategies(embedder, plain, options, lambda: 1 / 0)
    assert untouched.after is None
    centred = StrategyOptions.model_validate({"weights": "base", "template": "bare", "pooling": "mean", "after": {"centre": True}})
    texts = ["the bus", "a house", "water"]
    first, second = fitted_strategies(embedder, plain | {"centred": centred}, options, lambda: texts)
    assert first.after is None
    np.testing.assert_allclose(second.after.mean, embedder.encode(texts, first, progress=False).mean(axis=0), atol=1e-6)


def test_a_strategy_carries_its_template(embedder_options):
    strategy = build_strategy("prompted_last", embedder_options())
    assert strategy.template.suffix == '" means in one word: "'
    assert (strategy.pooling, strategy.normalise) == ("last", True)


def test_the_embedder_follows_the_options(tiny_weights, embedder_options):
    embedder = load_embedder(tiny_weights, embedder_options(max_length=32, batch_tokens=77))
    assert (embedder.max_length, embedder.batch_tokens) == (32, 77)
    assert load_embedder(tiny_weights, embedder_options()).batch_tokens == 1024
