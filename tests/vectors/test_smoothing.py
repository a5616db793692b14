from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.vectors import neighbours as neighbours_module
from embedding_adaptation.vectors import smoothing as module
from embedding_adaptation.vectors.smoothing import smoothed


def unit(count=60, width=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slowly(vectors, neighbours, rounds):
    for _ in range(rounds):
        averaged = []
        for row, own in enumerate(vectors):
            others = sorted((other for other in range(len(vectors)) if other != row), key=lambda other: -float(own @ vectors[other]))
            total = own + sum(vectors[other] for other in others[:neighbours])
            averaged.append(total / np.linalg.norm(total))
        vectors = np.stack(averaged)
    return vectors


@pytest.mark.parametrize(("neighbours", "rounds"), [(1, 1), (5, 1), (5, 3), (99, 1)])
def test_each_vector_is_averaged_with_its_nearest(neighbours, rounds, monkeypatch):
    expected = slowly(unit(), neighbours, rounds)
    np.testing.assert_allclose(smoothed(unit(), neighbours=neighbours, rounds=rounds), expected, atol=1e-5)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(neighbours_module, "_SCORES_AT_ONCE", 100)
    np.testing.assert_allclose(smoothed(unit(), neighbours=neighbours, rounds=rounds), expected, atol=1e-5)


def test_the_given_vectors_stay_as_they_are():
    vectors = unit()
    before = vectors.copy()
    smoothed(vectors, neighbours=3)
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize("changes", [{"rounds": 0}, {"neighbours": 0}])
def test_no_round_and_no_neighbour_change_nothing(changes):
    np.testing.assert_array_equal(smoothed(unit(), **changes), unit())


def test_a_single_vector_has_no_neighbours():
    np.testing.assert_array_equal(smoothed(unit(1)), unit(1))


def test_groups_become_tighter_and_stay_apart():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 25)
    vectors = np.eye(4, 16)[labels] + 0.25 * random.normal(size=(100, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    after = smoothed(vectors)
    same = labels[:, None] == labels

    def contrast(matrix):
        scores = matrix @ matrix.T
        return scores[same].mean() - scores[~same].mean()

    assert contrast(after) > contrast(vectors) + 0.2


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="at least 0, not 10 and -1; raise them"):
        smoothed(unit(), rounds=-1)
