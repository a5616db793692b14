from __future__ import annotations

import pytest

from embedding_adaptation.embedder.strategy import Strategy, StrategyError
from embedding_adaptation.embedder.template import PromptTemplate

BARE = PromptTemplate("bare", "{text}")


def test_layers_are_counted_from_either_end():
    assert Strategy("a", BARE, "last", (-1, 0, -3)).hidden_layers(3) == (3, 0, 1)
    assert Strategy("a", BARE, "attention_weighted", (2,), attention_layers=(-1,)).weighting_layers(3) == (3,)
    assert Strategy("a", BARE, "attention_weighted", (2,), attention_layers=(-1,)).highest_layer(3) == 3
    assert Strategy("a", BARE, "last").weighting_layers(3) == ()


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Strategy("a", BARE, "last", (4,)), "strategy 'a' asks for layer 4 with pooling last; this model has layers 0 to 3, or -4 to -1"),
        (Strategy("a", BARE, "value_weighted", (0,)), "this model has layers 1 to 3, or -3 to -1"),
        (Strategy("a", BARE, "attention_weighted", attention_heads=(4,)), "attention head 4; this model has heads 0 to 3"),
    ],
)
def test_a_model_without_the_layer_or_head_is_an_error(strategy, message):
    with pytest.raises(StrategyError, match=message):
        strategy.check(layers=3, heads=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"template": (), "pooling": "last"}, "has no template"),
        ({"template": BARE, "pooling": "last", "layers": ()}, "has no layers"),
        ({"template": BARE, "pooling": "eos"}, "template 'bare' has none; set eos: true"),
        ({"template": BARE, "pooling": "mean", "attention_layers": (1,)}, "only pooling attention_weighted uses"),
    ],
)
def test_parts_that_do_not_go_together_are_an_error(arguments, message):
    with pytest.raises(StrategyError, match=message):
        Strategy("a", **arguments)
