from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from embedding_adaptation.vectors import kmeans
from embedding_adaptation.vectors.store import VectorStore
from embedding_adaptation.vectors.unit import unit_vectors

FULL = {"full_up_to": 20_000, "batch_size": 4096, "epochs": 2, "starts": 5}
MINI_BATCHES = FULL | {"full_up_to": 1, "batch_size": 64}


@pytest.mark.parametrize("options", [FULL, MINI_BATCHES], ids=["full", "mini_batches"])
def test_groups_are_found_and_the_largest_comes_first(groups, options):
    vectors, labels = groups((400, 250, 200, 150))
    store = VectorStore.of(vectors)
    centres = kmeans.cluster_by_cosine(store, 4, seed=0, **options)
    found = kmeans.assign(store, centres)
    assert adjusted_rand_score(labels, found.labels) == 1.0
    assert np.bincount(found.labels).tolist() == [400, 250, 200, 150]
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.0, atol=1e-6)


def test_the_seed_decides(groups):
    store = VectorStore.of(groups()[0])
    first, again = (kmeans.cluster_by_cosine(store, 4, seed=3, **MINI_BATCHES) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_assignment_in_blocks_equals_assignment_at_once(groups, monkeypatch):
    vectors, _ = groups()
    centres = unit_vectors(np.random.default_rng(1).normal(size=(5, 16)))
    cosines = unit_vectors(vectors) @ centres.T
    monkeypatch.setattr(kmeans, "_BLOCK_NUMBERS", 16 * 7)
    found = kmeans.assign(VectorStore.of(vectors), centres)
    np.testing.assert_array_equal(found.labels, cosines.argmax(axis=1))
    np.testing.assert_allclose(found.distances, 1 - cosines.max(axis=1), atol=1e-6)
    expected = np.stack([unit_vectors(vectors)[found.labels == cluster].sum(axis=0) for cluster in range(5)])
    np.testing.assert_allclose(found.sums, expected, atol=1e-4)


def test_clusters_that_would_be_empty_are_left_out():
    vectors = np.repeat(np.eye(2, 4, dtype=np.float32), 20, axis=0)
    with pytest.warns(Warning, match="distinct clusters"):
        assert len(kmeans.cluster_by_cosine(VectorStore.of(vectors), 5, seed=0, **FULL)) == 2


def test_all_numbers_of_clusters_come_from_one_hierarchy_and_are_as_good_as_many_random_starts(groups):
    from sklearn.cluster import KMeans

    points = unit_vectors(groups((60, 50, 40, 30))[0])
    found = kmeans.labels_from_ward(points, [1, 4, 7])
    assert found[1].max() == 0
    assert adjusted_rand_score(groups((60, 50, 40, 30))[1], found[4]) == 1.0
    means = np.stack([points[found[7] == cluster].mean(axis=0) for cluster in range(7)])
    assert ((points - means[found[7]]) ** 2).sum() <= 1.01 * KMeans(7, n_init=10, random_state=0).fit(points).inertia_
    assert all((found[4] == again).all() for again in kmeans.labels_from_ward(points, [4]).values())


def test_equal_points_are_fewer_clusters_without_gaps():
    found = kmeans.labels_from_ward(np.repeat(np.eye(3, dtype=np.float32), 5, axis=0), [2, 6])
    assert sorted(set(found[6].tolist())) == [0, 1, 2]
