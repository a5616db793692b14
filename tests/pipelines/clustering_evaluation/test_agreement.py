from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, v_measure_score

from embedding_adaptation.pipelines.clustering_evaluation import agreement as module
from embedding_adaptation.pipelines.clustering_evaluation.agreement import (
    METRICS,
    agreement,
    cluster_vectors,
    estimate_cluster_count,
    resampled_agreement,
)
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError


def noisy(count=300, labels=6, right=0.6, seed=0):
    """Labels, and clusters that agree with most of them."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, count)
    clusters = np.where(rng.random(count) < right, truth, rng.integers(0, labels + 1, count))
    return np.array([f"l{n}" for n in truth]), clusters


def blobs(clusters, count, width=16, noise=0.2):
    rng = np.random.default_rng(1)
    return (rng.normal(size=(clusters, width))[np.arange(count) % clusters] + noise * rng.normal(size=(count, width))).astype(np.float32)


def test_accuracy_is_that_of_the_best_matching():
    labels, clusters = np.array(list("aaabbbcc")), np.array([1, 1, 0, 0, 0, 0, 2, 1])
    assert agreement(labels, clusters)["accuracy"] == pytest.approx(6 / 8)
    assert agreement(labels, np.zeros(8, int))["accuracy"] == pytest.approx(3 / 8)
    assert agreement(labels, np.arange(8))["accuracy"] == pytest.approx(3 / 8)


def test_the_resampled_numbers_are_those_of_the_slow_obvious_way():
    labels, clusters = noisy()
    found = resampled_agreement(labels, clusters, resamples=120, seed=3)
    draws = np.random.default_rng(3).integers(0, 300, (120, 300), dtype=np.int32)
    for metric, function in (("v_measure", v_measure_score), ("ari", adjusted_rand_score)):
        slow = [function(labels[draw], clusters[draw]) for draw in draws]
        np.testing.assert_allclose(found[metric], slow, atol=1e-9)
    # AMI takes the chance agreement of all documents: its spread is what is used, and that is the same within a few percent.
    slow = [adjusted_mutual_info_score(labels[draw], clusters[draw]) for draw in draws]
    assert np.std(found["ami"]) == pytest.approx(np.std(slow), rel=0.05)
    assert np.corrcoef(found["ami"], slow)[0, 1] > 0.99
    assert found["accuracy"].mean() == pytest.approx(agreement(labels, clusters)["accuracy"], abs=0.01)


def test_pieces_of_resamples_are_the_same_as_all_at_once(monkeypatch):
    labels, clusters = noisy()
    whole = resampled_agreement(labels, clusters, resamples=50, seed=0)
    monkeypatch.setattr(module, "_MOST_INDICES", 300 * 50)
    same = resampled_agreement(labels, clusters, resamples=50, seed=0)
    monkeypatch.setattr(module, "_MOST_INDICES", 300 * 7)
    pieces = resampled_agreement(labels, clusters, resamples=50, seed=0)
    for metric in METRICS:
        np.testing.assert_array_equal(whole[metric], same[metric])
        np.testing.assert_allclose(pieces[metric], whole[metric])


def test_perfect_and_single_clusters_have_their_limits():
    labels = np.array(list("aabbcc"))
    perfect = resampled_agreement(labels, np.array([0, 0, 1, 1, 2, 2]), resamples=100, seed=0)
    single = resampled_agreement(labels, np.zeros(6, int), resamples=100, seed=0)
    assert (perfect["v_measure"] > 0.999).all()
    assert (np.abs(single["v_measure"]) < 1e-9).mean() > 0.9  # but where a draw holds one label only
    assert all(np.isfinite(values).all() for values in (*perfect.values(), *single.values()))


def test_the_number_of_clusters_is_found_where_it_is_plain():
    assert estimate_cluster_count(blobs(3, 150), 0, candidates=12, max_documents=200) == 3
    assert 8 <= estimate_cluster_count(blobs(10, 600), 0, candidates=12, max_documents=300) <= 13


@pytest.mark.parametrize("vectors", [np.zeros((3, 2)), np.zeros((40, 2)), np.eye(4)])
def test_vectors_without_structure_have_some_number_of_clusters(vectors):
    assert 2 <= estimate_cluster_count(vectors.astype(np.float32), 0, candidates=5, max_documents=30) < len(vectors)


def test_more_clusters_than_documents_are_refused():
    with pytest.raises(EvaluationError, match="cannot form 5 clusters of 4 distinct documents"):
        cluster_vectors(np.eye(4), 5, 0)
