from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.vectors.words import tfidf_vectors

TEXTS = [f"the {animal} eats {food} today" for animal in ("cat", "dog", "bird") for food in ("bread", "rice", "corn")]


def test_texts_that_share_rare_words_have_similar_vectors():
    # Five dimensions hold all there is. Animals and food share a singular value, so that four would be an arbitrary choice, which differs
    # between processors.
    vectors = tfidf_vectors(TEXTS, 5, 0)
    assert vectors.shape == (9, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 4]  # cat and bread: another food of the cat, another animal with another food


@pytest.mark.parametrize(
    ("texts", "width"), [(["", "!?"], 1), (["word", "word word"], 1), (["one two", "two three"], 1), (["a b c d"] * 3, 1)]
)
def test_too_few_words_still_give_finite_vectors(texts, width):
    vectors = tfidf_vectors(texts, 256, 0)
    assert vectors.shape[0] == len(texts)
    assert vectors.shape[1] >= width
    assert np.isfinite(vectors).all()


def test_texts_without_spaces_are_compared_by_their_characters():
    texts = ["銀行口座の残高を確認したいです", "銀行口座の残高はどこで確認できますか", "今日の天気は晴れのち曇りでしょう"]
    similarity = (vectors := tfidf_vectors(texts, 8, 0)) @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.05
