from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.texts.words import word_vectors, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The bus, the BUS!", ["the", "bus", "the", "bus"]),
        ("don’t re-open 1984 a b2b", ["don't", "re-open", "b2b"]),
        ("Straße Ölpreis", ["straße", "ölpreis"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("cafe\u0301", ["café"]),
        ("天気 は", ["天気", "は"]),
        ("コーヒー・時々", ["コー", "ーヒ", "ヒー", "時々"]),
        ("ภาษา", ["ภา", "าษ", "ษา"]),
        ("iPhone手机坏了", ["iphone", "手机", "机坏", "坏了"]),
        ("Москва 12 🙂", ["москва"]),
        ("!?", []),
    ],
)
def test_words_of_any_script(text, words):
    assert words_of(text) == words


def test_texts_are_alike_if_they_share_rare_words_and_function_words_do_not_count():
    texts = ["the bus is late", "late bus, late tram", "is the cake late", "the cake is in the oven"]
    vectors = word_vectors(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    scores = vectors @ vectors.T
    assert scores[0, 1] > scores[0, 2] > scores[0, 3] == 0.0
    words = {"bus": [1, 1, 0, 0], "late": [1, 1 + np.log(2), 1, 0], "tram": [0, 1, 0, 0], "cake": [0, 0, 1, 1], "oven": [0, 0, 0, 1]}
    counts = np.array(list(words.values())).T
    slow = counts * (np.log((1 + 4) / (1 + (counts > 0).sum(axis=0))) + 1)
    slow /= np.linalg.norm(slow, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, slow @ slow.T, atol=1e-6)


def test_only_the_most_frequent_words_are_used():
    assert word_vectors(["bus bus tram", "bus tram cake"], most_words=2).shape == (2, 2)


@pytest.mark.parametrize("texts", [["!?", "12"], ["the", "of"]])
def test_texts_without_words_are_zero(texts):
    np.testing.assert_array_equal(word_vectors(texts), np.zeros((2, 1)))
