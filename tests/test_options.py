from __future__ import annotations

import pytest
from pydantic import ValidationError

from embedding_adaptation.options import AfterOptions, chosen_names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": {"bare": "no slot"}}, "template 'bare' has no {text} slot"),
        ({"adapt": "other"}, "unknown strategy 'other' in adapt; choose from bare_mean, prompted_last"),
        ({"surprise": 1}, "Extra inputs are not permitted"),
        ({"max_length": 2}, "greater than or equal to 8"),
        (
            {"strategies": {"a": {"weights": "base", "template": "none", "pooling": "last"}}, "adapt": "a"},
            "unknown template 'none' in strategy 'a'; choose from bare, one_word",
        ),
        (
            {"strategies": {"random": {"weights": "base", "template": "bare", "pooling": "last"}}, "adapt": "random"},
            "'random' is reserved for the random vectors",
        ),
        (
            {"strategies": {"a": {"weights": "base", "template": "bare", "pooling": "median"}}, "adapt": "a"},
            "'attention_weighted' or 'value_weighted'",
        ),
        ({"templates": {"bare": {"pattern": "x", "bos": True}}}, "template 'bare' has no {text} slot"),
        ({"grid": {"templates": ["none"]}}, "unknown template 'none' in strategy 'none.last.-1'; choose from bare, one_word"),
        (
            {"strategies": {"a": {"weights": "base", "template": "bare", "pooling": "eos"}}, "adapt": "a"},
            "strategy 'a' pools the end token, but template 'bare' has none",
        ),
        (
            {"strategies": {"a": {"weights": "base", "template": ["bare", "one_word"], "pooling": "last"}}, "adapt": "a"},
            "strategy 'a' in adapt cannot be trained: training needs one template",
        ),
        (
            {"strategies": {"a": {"weights": "base", "template": "bare", "pooling": "last", "layers": []}}, "adapt": "a"},
            "at least 1 item",
        ),
        (
            {"strategies": {"a": {"weights": "base", "template": "bare", "pooling": "last", "attention_heads": 1}}, "adapt": "a"},
            "which only pooling attention_weighted uses",
        ),
    ],
)
def test_wrong_options_are_named_before_any_work(embedder_options, changes, message):
    with pytest.raises(ValidationError) as caught:
        embedder_options(**changes)
    assert message in str(caught.value)


def test_options_are_read_only(embedder_options):
    options = embedder_options()
    with pytest.raises(ValidationError, match="frozen"):
        options.max_length = 3


def test_a_grid_is_every_combination_with_names_that_say_which(embedder_options):
    grid = {"templates": ["bare", "one_word"], "poolings": ["last", "mean"], "layers": [-1, [-1, -2]], "after": [{}, {"centre": True}]}
    options = embedder_options(grid=grid)
    assert len(options.grid.strategies) == 16
    assert options.every_strategy["one_word.mean.-1+-2.centre"].layers == (-1, -2)
    assert set(options.strategies) < set(options.every_strategy)


def test_a_template_can_have_start_and_end_tokens(embedder_options):
    options = embedder_options(templates={"bare": "{text}", "one_word": {"pattern": "{text} is", "bos": False, "eos": True}})
    template = options.template("one_word")
    assert (template.pattern, template.bos, template.eos) == ("{text} is", False, True)


TWINS = {
    "first": {"weights": "base", "template": "one_word", "pooling": "last", "after": {"centre": True}},
    "second": {"weights": "base", "template": "called_otherwise", "pooling": "last", "after": {"centre": True}},
    "tuned": {"weights": "adapted", "template": "one_word", "pooling": "last", "after": {"centre": True}},
    "without_after": {"weights": "base", "template": "one_word", "pooling": "last"},
    "alone": {"weights": "adapted", "template": "bare", "pooling": "last"},
}


def test_a_twin_differs_by_its_weights_alone_whatever_the_names(embedder_options):
    words = 'This sentence: "{text}" means in one word: "'
    options = embedder_options(templates={"bare": "{text}", "one_word": words, "called_otherwise": words}, strategies=TWINS, adapt="alone")
    assert options.base_twin("tuned", TWINS) == "first"
    assert options.base_twin("tuned", ["without_after", "random", "second"]) == "second"
    assert options.base_twin("tuned", ["without_after", "tuned"]) is None
    assert options.base_twin("alone", TWINS) is None
    assert options.base_twin("first", TWINS) is None


def test_patterns_choose_names_in_their_order():
    names = ["a.last", "a.mean", "b.last"]
    assert chosen_names(None, names, "x") == names
    assert chosen_names(["b.*", "*.last"], names, "x") == ["a.last", "b.last"]
    with pytest.raises(ValueError, match=r"unknown strategy 'c' in x; choose from a.last, a.mean, b.last"):
        chosen_names(["c"], names, "x")


def test_what_comes_after_pooling_has_a_short_name():
    assert AfterOptions().title == ""
    assert AfterOptions(centre=True, dimensions=64).title == "centre+first64"
    assert AfterOptions(centre=True, remove_components=3).title == "remove3"
    assert AfterOptions(whiten=True).title == "whiten"
