from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.pipelines.adaptation_page.comparison import aligned_maps, most_moved
from embedding_adaptation.pipelines.adaptation_page.options import PageOptions
from embedding_adaptation.vectors.unit import unit_vectors

OPTIONS = PageOptions(moved_texts=3, nearest=2, neighbours=4, seed=0)


@pytest.fixture
def vectors():
    return unit_vectors(np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32))


def test_the_same_vectors_lie_in_the_same_places_however_they_are_turned(vectors):
    turned = vectors @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0].astype(np.float32)
    one, other = aligned_maps(vectors, turned, OPTIONS)
    assert one.shape == other.shape == (12, 2)
    np.testing.assert_allclose(one.mean(axis=0), 0, atol=1e-5)
    assert np.linalg.norm(one) == pytest.approx(np.linalg.norm(other), rel=1e-5)
    same, again = aligned_maps(vectors, vectors, OPTIONS)
    np.testing.assert_allclose(same, again, atol=1e-4)


def test_texts_whose_neighbours_changed_come_first_and_others_never(vectors):
    assert most_moved(vectors, vectors, OPTIONS) == []
    changed = vectors.copy()
    changed[0] = -vectors[0]
    (first, before, after), *_ = most_moved(vectors, changed, OPTIONS)
    assert first == 0
    assert not set(before) & set(after)
    assert len(before) == len(after) == 2
    assert len(most_moved(vectors, changed, OPTIONS)) <= 3


@pytest.mark.parametrize("count", [1, 2])
def test_few_texts_have_few_neighbours(vectors, count):
    moved = most_moved(vectors[:count], -vectors[:count], OPTIONS)
    assert all(len(before) == count - 1 for _, before, _ in moved)
