from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.pipelines.text_clustering.density import cluster_by_density, density_labels, reduced
from embedding_adaptation.pipelines.text_clustering.errors import ClusteringError
from embedding_adaptation.pipelines.text_clustering.options import HdbscanOptions
from embedding_adaptation.vectors.store import VectorStore
from embedding_adaptation.vectors.unit import unit_vectors

OPTIONS = HdbscanOptions(dimensions=None)


@pytest.fixture
def noisy(groups):
    vectors, labels = groups((60, 40, 30))
    stray = np.random.default_rng(5).normal(size=(20, 16)).astype(np.float32)
    return np.concatenate([vectors, stray]), np.concatenate([labels, np.full(20, NOISE)])


def test_groups_are_found_and_what_belongs_nowhere_is_noise(noisy):
    vectors, labels = noisy
    matrix = unit_vectors(vectors)
    found = density_labels(reduced(matrix, OPTIONS, 15, 0), 10, OPTIONS)
    every, distances, centres = cluster_by_density(VectorStore.of(vectors), np.arange(150), matrix, found, 10)
    assert len(centres) == 3
    assert adjusted_rand_score(labels, every) > 0.9
    assert (every[130:] == NOISE).mean() > 0.5
    assert (every[:130] == NOISE).mean() < 0.1
    np.testing.assert_allclose(distances, 1 - (matrix @ centres.T).max(axis=1), atol=1e-5)


def test_texts_that_were_not_clustered_join_the_nearest_cluster_or_are_noise(noisy):
    vectors, labels = noisy
    matrix = unit_vectors(vectors)
    drawn = np.sort(np.random.default_rng(0).choice(150, 100, replace=False))
    found = density_labels(matrix[drawn], 8, OPTIONS)
    every, _, centres = cluster_by_density(VectorStore.of(vectors), drawn, matrix[drawn], found, 8)
    others = np.setdiff1d(np.arange(150), drawn)
    assert len(centres) == 3
    assert adjusted_rand_score(labels[others], every[others]) > 0.8
    assert np.bincount(every[every != NOISE]).argmax() == 0


def test_nothing_but_noise_is_an_error_with_a_way_out():
    vectors = np.eye(12, dtype=np.float32)
    with pytest.raises(ClusteringError, match=r"only noise; lower text_clustering\.hdbscan\.min_cluster_size \(now 4\)"):
        cluster_by_density(VectorStore.of(vectors), np.arange(12), vectors, np.full(12, NOISE), 4)
