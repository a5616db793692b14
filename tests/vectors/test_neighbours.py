from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.vectors import neighbours as module
from embedding_adaptation.vectors.neighbours import largest, mutual_neighbours, nearest_neighbours

BOUNDS = {"neighbours": 3, "min_similarity": 0.6, "near_duplicate": 0.9, "max_pairs_per_text": 3}


def bounds(**changes):
    return BOUNDS | changes


def unit(count=60, width=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def words(count):
    return [f"{chr(97 + n % 26) * 7} {n * 7919}" for n in range(count)]


def slow_pairs(vectors, k, floor):
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = [{int(j) for j in np.argsort(-row)[:k] if row[j] >= floor} for row in scores]
    return {(i, j) for i in range(len(vectors)) for j in nearest[i] if i < j and i in nearest[j]}


@pytest.mark.parametrize("at_once", [1 << 24, 100])
@pytest.mark.parametrize("count", [0, 1, 7, 59])
def test_neighbours_are_the_nearest_of_all_in_order(monkeypatch, at_once, count):
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", at_once)
    vectors = unit()
    rows, similarities = nearest_neighbours(vectors, count)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    np.testing.assert_array_equal(rows, np.argsort(-scores, axis=1, kind="stable")[:, :count])
    np.testing.assert_allclose(similarities, np.take_along_axis(scores, rows, axis=1), atol=1e-6)


def test_of_equals_the_lower_number_comes_first():
    assert largest(np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 5.0]]), 4).tolist() == [[1, 2, 3, 0], [3, 0, 1, 2]]
    rows, similarities = nearest_neighbours(unit()[[0, 0, 0]], 2)
    assert rows.tolist() == [[1, 2], [0, 2], [0, 1]]
    np.testing.assert_allclose(similarities, 1.0, atol=1e-6)


@pytest.mark.parametrize("at_once", [1 << 24, 100])
def test_pairs_are_the_mutual_nearest_neighbours(monkeypatch, at_once):
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", at_once)
    vectors = unit()
    pairs = mutual_neighbours(vectors, words(60), **bounds(min_similarity=0.2))
    assert {(one, other) for one, other, _ in pairs} == slow_pairs(vectors, 3, 0.2)
    assert len(pairs) > 10
    similarities = [similarity for _, _, similarity in pairs]
    assert similarities == sorted(similarities, reverse=True)
    assert min(similarities) >= 0.2


def test_the_cap_keeps_the_most_similar():
    pairs = mutual_neighbours(unit(), words(60), **bounds(min_similarity=-1.0, max_pairs_per_text=1))
    used = [row for one, other, _ in pairs for row in (one, other)]
    assert len(used) == len(set(used))
    everything = mutual_neighbours(unit(), words(60), **bounds(min_similarity=-1.0))
    assert pairs[0] == everything[0]
    assert len(pairs) < len(everything)


def test_near_duplicates_take_no_place_among_the_nearest():
    vectors = unit(6, 4)
    vectors[1] = vectors[0]
    texts = ["where is my card", "where is my card?", "cccc", "dddd", "eeee", "ffff"]
    pairs = {(one, other) for one, other, _ in mutual_neighbours(vectors, texts, **bounds(min_similarity=-1.0))}
    assert (0, 1) not in pairs
    assert any(0 in pair for pair in pairs)
    assert (0, 1) in {(a, b) for a, b, _ in mutual_neighbours(vectors, texts, **bounds(min_similarity=-1.0, near_duplicate=1.0))}
