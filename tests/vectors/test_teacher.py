from __future__ import annotations

import numpy as np

from embedding_adaptation.vectors.smoothing import smoothed
from embedding_adaptation.vectors.teacher import teacher_vectors
from embedding_adaptation.vectors.unit import unit_vectors
from embedding_adaptation.vectors.words import tfidf_vectors

RNG = np.random.default_rng(0)
TEXTS = [f"{word} number {row}" for row in range(10) for word in ("apple", "train", "cloud")]
VECTORS = RNG.normal(size=(30, 12)).astype(np.float32)


def test_without_words_and_smoothing_the_vectors_themselves_teach():
    np.testing.assert_allclose(teacher_vectors(VECTORS, TEXTS, words=0.0, rounds=0), unit_vectors(VECTORS), atol=1e-6)


def test_similarity_is_the_weighted_mean_of_the_views():
    found = teacher_vectors(VECTORS, TEXTS, words=0.5, rounds=0)
    words = tfidf_vectors(TEXTS, 128, 0)
    by_hand = (unit_vectors(VECTORS) @ unit_vectors(VECTORS).T + 0.25 * words @ words.T) / 1.25
    np.testing.assert_allclose(found @ found.T, by_hand, atol=1e-5)


def test_the_views_are_smoothed_together():
    plain = teacher_vectors(VECTORS, TEXTS, rounds=0)
    np.testing.assert_allclose(teacher_vectors(VECTORS, TEXTS, neighbours=3, rounds=2), smoothed(plain, neighbours=3, rounds=2), atol=1e-6)


def test_words_bring_texts_about_the_same_together():
    same = np.array([[one.split()[0] == other.split()[0] for other in TEXTS] for one in TEXTS])
    gap = {}
    for words in (0.0, 0.5):
        cosines = (vectors := teacher_vectors(VECTORS, TEXTS, words=words, neighbours=3, rounds=1)) @ vectors.T
        gap[words] = cosines[same].mean() - cosines[~same].mean()
    assert gap[0.5] > gap[0.0] + 0.03
