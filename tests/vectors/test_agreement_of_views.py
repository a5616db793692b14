from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.vectors.agreement_of_views import FEWEST, CharacterView

KINDS = ("printer paper jam", "holiday in spain", "garden tomato soil", "bank card declined", "football match score")
TEXTS = [
    f"{kind} number {row} {word}" for row in range(10) for kind, word in zip(KINDS, ("ink", "sea", "water", "cash", "goal"), strict=True)
]
OF_KIND = np.arange(len(TEXTS)) % len(KINDS)
RNG = np.random.default_rng(0)


def of_groups(groups, noise):
    return (np.eye(groups.max() + 1)[groups] + noise * RNG.normal(size=(len(groups), groups.max() + 1))).astype(np.float32)


def test_vectors_that_group_texts_as_their_characters_do_agree_more_than_others():
    view = CharacterView(TEXTS)
    clear, blurred, unrelated = (view.agreement(of_groups(OF_KIND, noise)) for noise in (0.05, 0.5, 50.0))
    assert clear > blurred > unrelated + 0.1
    assert abs(unrelated) < 0.15
    assert clear > 0.6


def test_length_does_not_matter_and_repetition_gives_the_same():
    view, vectors = CharacterView(TEXTS), of_groups(OF_KIND, 0.3)
    first = view.agreement(vectors)
    assert view.agreement(vectors) == first
    assert view.agreement(vectors * RNG.uniform(0.5, 2.0, size=(len(vectors), 1)).astype(np.float32)) == pytest.approx(first)


def test_equal_vectors_agree_with_nothing():
    assert CharacterView(TEXTS).agreement(np.ones((len(TEXTS), 3), np.float32)) == pytest.approx(0.0, abs=1e-9)


def test_texts_that_share_nothing_form_no_groups():
    texts = [letter * 4 for letter in "abcdefghijklmnop"]
    assert CharacterView(texts).agreement(RNG.normal(size=(16, 3)).astype(np.float32)) == pytest.approx(0.0, abs=1e-9)


def test_too_few_texts_are_an_error():
    with pytest.raises(ValueError, match=f"9 texts are too few to compare groups of; give at least {FEWEST}"):
        CharacterView(TEXTS[:9])
