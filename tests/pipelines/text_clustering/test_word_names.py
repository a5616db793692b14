from __future__ import annotations

import pytest

from embedding_adaptation.pipelines.text_clustering.word_names import parts_of_name, share_a_word
from embedding_adaptation.texts.word_forms import stemmer

STEM = stemmer("en")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["invoice", "refund", "payment", "due"], ["invoice", "refund", "payment"]),
        (["card", "cards", "pin"], ["card", "pin"]),
        (["identity", "verify", "verification", "ID"], ["identity", "verify", "ID"]),
        (["virtual card", "disposable virtual", "physical card", "work"], ["virtual card", "disposable", "physical"]),
        (["exchange rate", "top up", "cash"], ["exchange rate", "top up"]),
        (["a b c d e", "cash"], ["cash"]),
        (["top", "top-up", "limit"], ["top-up", "limit"]),
        (["svn", "svn repository", "commit"], ["svn", "repository", "commit"]),
        (["japan", "japanese", "trade"], ["japan", "trade"]),
        (["手机", "机坏", "屏幕"], ["手机", "屏幕"]),
        (["C#", "C++"], ["C#", "C++"]),
        ([], []),
    ],
)
def test_a_name_has_no_word_twice_and_at_most_four(words, parts):
    assert parts_of_name(words, STEM) == parts


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("Late stops", "stop", True),
        ("Identity verification", "verify", True),
        ("Topping up", "top-up", True),
        ("Cards", "virtual card", True),
        ("Transfers", "transaction", False),
        ("Carts", "card", False),
        ("手机问题", "手机", True),
        ("天气", "手机", False),
        ("!?", "card", False),
        ("", "card", False),
    ],
)
def test_expressions_share_a_word_in_whatever_form(one, other, expected):
    assert share_a_word(one, other, STEM) is expected
    assert share_a_word(other, one, STEM) is expected
