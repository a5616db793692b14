from __future__ import annotations

import pytest

from embedding_adaptation.texts.word_forms import _ALGORITHMS, stemmer, stop_words_of


@pytest.mark.parametrize(
    ("language", "forms"),
    [
        ("en", ["card", "cards"]),
        ("en", ["transfer", "transfers", "transferred", "transferring"]),
        ("de", ["Rechnung".lower(), "rechnungen"]),
        ("fr", ["remboursement", "remboursements"]),
        ("ru", ["возврат", "возвраты", "возврата"]),
    ],
)
def test_forms_of_a_word_have_one_stem(language, forms):
    assert len({stemmer(language)(form) for form in forms}) == 1


def test_different_words_have_different_stems():
    words = ["card", "cart", "transfer", "transaction", "exchange", "rate"]
    assert len({stemmer("en")(word) for word in words}) == len(words)


@pytest.mark.parametrize("language", ["", "ja", "xx"])
def test_a_language_without_an_algorithm_keeps_its_forms(language):
    assert [stemmer(language)(word) for word in ("cards", "card")] == ["cards", "card"]


def test_every_algorithm_that_is_named_exists():
    assert all(stemmer(language)("word") for language in _ALGORITHMS)


@pytest.mark.parametrize(
    ("language", "stop_words", "subjects"),
    [
        ("en", ["the", "don", "please", "want"], ["computer", "bill", "fire", "card", "working"]),
        ("de", ["und", "nicht", "the"], ["rechnung", "karte"]),
        ("no", ["og", "ikke"], ["kort"]),
        ("zxx", ["the"], ["rechnung", "und", "please"]),
    ],
)
def test_stop_words_are_those_of_the_language_and_no_subjects(language, stop_words, subjects):
    found = stop_words_of(language)
    assert set(stop_words) <= found
    assert not found & set(subjects)
