from __future__ import annotations

from embedding_adaptation.runtime import build_strategy, load_embedder, strategies_of


def test_strategies_are_sorted_by_the_weights_they_use(embedder_options):
    options = embedder_options()
    assert [s.name for s in strategies_of("base", options)] == ["bare_mean", "prompted_last"]
    assert [s.name for s in strategies_of("adapted", options)] == ["prompted_last_adapted"]


def test_a_strategy_carries_its_template(embedder_options):
    strategy = build_strategy("prompted_last", embedder_options())
    assert strategy.template.suffix == '" means in one word: "'
    assert (strategy.pooling, strategy.normalise) == ("last", True)


def test_the_embedder_follows_the_options(tiny_weights, embedder_options):
    embedder = load_embedder(tiny_weights, embedder_options(max_length=32, batch_tokens=77))
    assert (embedder.max_length, embedder.batch_tokens) == (32, 77)
    assert load_embedder(tiny_weights, embedder_options()).batch_tokens == 1024
