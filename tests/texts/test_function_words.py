from __future__ import annotations

import pytest

from embedding_adaptation.texts.function_words import FUNCTION_WORDS


def test_words_are_written_as_they_are_compared():
    assert all(word == word.casefold() == word.strip() for word in FUNCTION_WORDS)


@pytest.mark.parametrize(("word", "expected"), [("the", True), ("n't", True), ("within", True), ("bus", False), ("run", False)])
def test_closed_classes_are_in_and_subjects_are_not(word, expected):
    assert (word in FUNCTION_WORDS) is expected
