from __future__ import annotations

import pytest
from pydantic import ValidationError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": {"bare": "no slot"}}, "template 'bare' has no {text} slot"),
        ({"adapt": "other"}, "adapt names the strategy 'other'; there are: bare_mean, prompted_last"),
        ({"surprise": 1}, "Extra inputs are not permitted"),
        ({"max_length": 2}, "greater than or equal to 8"),
        (
            {"strategies": {"a": {"weights": "base", "template": "none", "pooling": "last"}}, "adapt": "a"},
            "strategy 'a' names the template 'none'; there are: bare, one_word",
        ),
        (
            {"strategies": {"random": {"weights": "base", "template": "bare", "pooling": "last"}}, "adapt": "random"},
            "'random' is taken by the random vectors",
        ),
        (
            {"strategies": {"a": {"weights": "base", "template": "bare", "pooling": "median"}}, "adapt": "a"},
            "'mean', 'text_mean' or 'last'",
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
