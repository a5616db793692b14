from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.vectors import approximate as module
from embedding_adaptation.vectors.approximate import approximate_bytes, approximate_neighbours
from embedding_adaptation.vectors.neighbours import Search, mutual_neighbours, nearest_neighbours

faiss = pytest.importorskip("faiss")
EXACT = Search("exact")


def groups(count=1500, width=16, of=30, spread=0.6, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(of, width))[rng.integers(of, size=count)] + spread * rng.normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def share(found, true):
    return float(np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found.tolist(), true.tolist(), strict=True)]))


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("at_once", [1 << 16, 100])
def test_with_all_cells_it_finds_what_the_exact_search_finds(monkeypatch, count, at_once):
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", 50 * at_once)
    vectors = groups(700)
    rows, similarities = approximate_neighbours(vectors, count, recall=1.0, progress=False)
    true, expected = nearest_neighbours(vectors, count, EXACT)
    np.testing.assert_array_equal(rows, true)
    np.testing.assert_allclose(similarities, expected, atol=1e-6)


def test_it_finds_the_share_of_neighbours_that_was_asked_for():
    vectors = groups(4000, spread=1.0)
    true, _ = nearest_neighbours(vectors, 8, EXACT)
    found, _ = approximate_neighbours(vectors, 8, progress=False)
    assert 0.97 <= share(found, true) < 1.0
    fewer, _ = approximate_neighbours(vectors, 8, recall=0.6, progress=False)
    assert 0.5 < share(fewer, true) < share(found, true)


def test_nobody_is_their_own_neighbour_and_nobody_is_named_twice():
    vectors = np.repeat(groups(40), 12, axis=0)  # more copies than neighbours
    rows, similarities = approximate_neighbours(vectors, 5, progress=False)
    assert not (rows == np.arange(len(vectors))[:, None]).any()
    assert all(len(set(row)) == 5 for row in rows.tolist())
    assert (np.diff(similarities, axis=1) <= 0).all()
    np.testing.assert_allclose(similarities, 1.0, atol=1e-5)


def test_where_the_nearest_cells_hold_too_few_all_are_searched(monkeypatch):
    monkeypatch.setattr(module, "_CELLS", 12.0)  # about two vectors for each
    monkeypatch.setattr(module._Cells, "probes", lambda *_: 1)
    vectors = groups(200)
    rows, _ = approximate_neighbours(vectors, 8, progress=False)
    assert (rows >= 0).all()
    assert all(len(set(row)) == 8 for row in rows.tolist())


def test_the_same_vectors_give_the_same_neighbours_whatever_the_number_of_threads():
    vectors = groups(3000)
    before = faiss.omp_get_max_threads()
    try:
        found = []
        for threads in (1, 2, 2):
            faiss.omp_set_num_threads(threads)
            found.append(approximate_neighbours(vectors, 6, progress=False))
    finally:
        faiss.omp_set_num_threads(before)
    for rows, similarities in found[1:]:
        np.testing.assert_array_equal(rows, found[0][0])
        np.testing.assert_allclose(similarities, found[0][1], atol=1e-6)


def test_above_a_number_of_vectors_auto_is_approximate_and_below_exact(monkeypatch):
    vectors = groups(300)
    asked = []
    monkeypatch.setattr(
        "embedding_adaptation.vectors.neighbours.approximate_neighbours",
        lambda given, count: asked.append(len(given)) or approximate_neighbours(given, count, recall=1.0, progress=False),
    )
    exact, _ = nearest_neighbours(vectors, 4, Search("auto", 300))
    assert not asked
    same, _ = nearest_neighbours(vectors, 4, Search("auto", 299))
    assert asked == [300]
    np.testing.assert_array_equal(same, exact)
    nearest_neighbours(vectors, 4, Search("approximate", 300))
    nearest_neighbours(vectors, 4, Search("exact", 1))
    assert asked == [300, 300]


def test_most_mutual_pairs_are_found():
    vectors = groups(4000, spread=1.0)
    texts = [f"{chr(97 + n % 26) * 7} {n * 7919}" for n in range(len(vectors))]
    bounds = {"neighbours": 3, "min_similarity": 0.2, "near_duplicate": 0.9, "max_pairs_per_text": 3}
    true = {pair[:2] for pair in mutual_neighbours(vectors, texts, **bounds, search=EXACT)}
    found = {pair[:2] for pair in mutual_neighbours(vectors, texts, **bounds, search=Search("approximate"))}
    assert len(true) > 500
    assert len(found & true) / len(true) >= 0.95


def test_memory_stated_is_linear_and_holds_the_result():
    one, two = approximate_bytes(1_000_000, 576, 8), approximate_bytes(2_000_000, 576, 8)
    assert 1_000_000 * 8 * 12 < two - one < 1_000_000 * 4 * 576  # the result grows with the vectors, and no copy of them is made
    assert Search("exact").needed_bytes(1000, 8, 5) > 1000 * 5 * 12
    assert Search("auto", 10).needed_bytes(1000, 8, 5) == approximate_bytes(1000, 8, 5)
