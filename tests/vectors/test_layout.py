from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from embedding_adaptation.vectors import layout, neighbours
from embedding_adaptation.vectors.unit import unit_vectors


def test_neighbours_are_the_exact_ones(groups, monkeypatch):
    monkeypatch.setattr(neighbours, "_SCORES_AT_ONCE", 37 * 240)
    vectors = unit_vectors(groups()[0])
    rows, distances = layout.with_themselves(vectors, 6)
    expected, places = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(vectors).kneighbors(vectors)
    np.testing.assert_array_equal(rows, places)
    np.testing.assert_allclose(distances, np.maximum(expected, 0), atol=1e-6)


def test_a_vector_is_its_own_first_neighbour_where_others_are_equal():
    rows, distances = layout.with_themselves(unit_vectors(np.ones((9, 3))), 4)
    assert rows[:, 0].tolist() == list(range(9))
    assert np.abs(distances).max() < 1e-6


def test_principal_components_are_those_of_scikit_learn_and_zero_beyond_the_rank():
    from sklearn.decomposition import PCA

    matrix = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    found = layout.principal_components(matrix, 2)
    np.testing.assert_allclose(np.abs(found), np.abs(PCA(2).fit_transform(matrix)), atol=1e-4)
    assert not layout.principal_components(np.array([[1, 0], [0, 1]], np.float32), 3)[:, 1:].any()


@pytest.mark.slow
@pytest.mark.parametrize("count", [6, 150])
def test_the_map_keeps_groups_together_and_follows_from_the_seed(groups, count):
    vectors, labels = groups()
    vectors, labels = unit_vectors(vectors)[:count], labels[:count]
    first, again = (layout.umap_coordinates(vectors, 2, neighbours=10, min_distance=0.1, seed=0) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (count, 2)
    assert np.isfinite(first).all()
    if count > 100:
        nearest = NearestNeighbors(n_neighbors=2).fit(first).kneighbors(first)[1][:, 1]
        assert (labels[nearest] == labels).mean() > 0.95


@pytest.mark.slow
def test_equal_vectors_and_very_few_vectors_have_places():
    for vectors in (unit_vectors(np.ones((30, 4))), unit_vectors(np.eye(4)), unit_vectors(np.eye(2, 4))):
        assert np.isfinite(layout.umap_coordinates(vectors, 2, neighbours=15, min_distance=0.1, seed=0)).all()


def test_torch_keeps_its_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        vectors = unit_vectors(np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32))
        layout.umap_coordinates(vectors, 2, neighbours=5, min_distance=0.1, seed=0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
