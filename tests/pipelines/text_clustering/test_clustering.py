from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.pipelines.text_clustering.clustering import cluster_vectors, draw
from embedding_adaptation.pipelines.text_clustering.errors import ClusteringError
from embedding_adaptation.vectors.store import VectorError, VectorStore


def test_the_number_of_clusters_is_chosen_by_stability(groups, make_options):
    vectors, labels = groups()
    clusters, curve = cluster_vectors(VectorStore.of(vectors), make_options())
    assert adjusted_rand_score(labels, clusters.labels) == 1.0
    assert curve.loc[curve["chosen"], "clusters"].tolist() == [4]
    assert curve["clusters"].tolist() == [2, 3, 4, 5, 6]
    assert clusters.facts["chosen_by"] == "stability"
    assert clusters.facts["agreement"] == 1.0
    assert clusters.facts["structure"] == "found"
    assert clusters.facts["agreement_corrected"] == pytest.approx(1.0)
    assert clusters.facts["hdbscan_clusters"] == 4
    assert curve["hdbscan_clusters"].tolist() == [4] * 5
    assert {"reference", "corrected", "explained", "added"} <= set(curve)


def test_texts_without_structure_are_clustered_all_the_same_and_it_is_said(make_options, caplog):
    vectors = np.random.default_rng(0).normal(size=(120, 24)).astype(np.float32)
    clusters, curve = cluster_vectors(VectorStore.of(vectors), make_options())
    assert clusters.facts["structure"] == "none found"
    assert len(clusters.centres) == curve.loc[curve["chosen"], "clusters"].iloc[0]
    assert "no structure found: resamples agree hardly better on clusters of these texts" in caplog.text
    assert "is arbitrary" in caplog.text


def test_the_largest_number_tried_is_said_to_be_the_end_of_the_curve(groups, make_options, caplog):
    cluster_vectors(VectorStore.of(groups((40, 40, 40, 40))[0]), make_options(stability={"candidates": [2, 3, 4], "pairs": 3}))
    assert "4 is the largest number of clusters tried" in caplog.text


def test_a_given_number_of_clusters_is_taken_and_its_stability_measured(groups, make_options):
    clusters, curve = cluster_vectors(VectorStore.of(groups()[0]), make_options(clusters=3))
    assert len(clusters.centres) == 3
    assert curve["clusters"].tolist() == [3]
    assert 0 < curve["agreement"][0] <= 1
    assert clusters.facts["chosen_by"] == "option"
    assert clusters.facts["structure"] == "found"
    assert clusters.facts["hdbscan_clusters"] is None


def test_too_few_texts_to_measure_stability_are_clustered_all_the_same(make_options, caplog):
    clusters, curve = cluster_vectors(VectorStore.of(np.eye(4, dtype=np.float32)), make_options(clusters=4))
    assert clusters.sizes.tolist() == [1, 1, 1, 1]
    assert curve["agreement"].isna().all()
    assert clusters.facts["agreement"] is None
    assert clusters.facts["structure"] == "not measured"
    assert "too few to measure the stability" in caplog.text


def test_candidates_beyond_the_texts_are_left_out_with_a_word(groups, make_options, caplog):
    caplog.set_level("INFO")
    _, curve = cluster_vectors(VectorStore.of(groups((20, 20))[0]), make_options(stability={"candidates": [2, 3, 50], "pairs": 2}))
    assert curve["clusters"].tolist() == [2, 3]
    assert "numbers of clusters too large for resamples of 40 texts: 50" in caplog.text


def test_smoothing_makes_clusters_tighter_but_has_no_say_in_their_number(groups, make_options):
    vectors, labels = groups((90, 80, 70, 60), dimension=24, spread=0.28)
    found = {}
    for name, smoothing in {"without": None, "with": {"neighbours": 10, "rounds": 2}}.items():
        clusters, curve = cluster_vectors(VectorStore.of(vectors), make_options(smoothing=smoothing))
        assert adjusted_rand_score(labels, clusters.labels) > 0.9
        found[name] = (clusters.distances.mean(), curve, clusters.facts)
    assert found["with"][0] < 0.5 * found["without"][0]
    np.testing.assert_array_equal(found["with"][1].to_numpy(float), found["without"][1].to_numpy(float))
    assert found["with"][2]["smoothing"] == "averaged with nearest neighbours (6, rounds: 2)"
    assert found["without"][2]["smoothing"] == "none"


def test_smoothing_does_not_find_structure_where_there_is_none(make_options):
    vectors = np.random.default_rng(1).normal(size=(300, 24)).astype(np.float32) / np.sqrt(np.arange(1, 25, dtype=np.float32))
    clusters, _ = cluster_vectors(VectorStore.of(vectors), make_options(smoothing={"neighbours": 10}))
    assert clusters.facts["structure"] == "none found"


def test_hdbscan_finds_groups_and_noise_and_says_how_stable_they_are(groups, make_options):
    vectors, labels = groups((60, 40, 30))
    options = make_options(method="hdbscan", hdbscan={"dimensions": None, "min_cluster_size": 10})
    clusters, curve = cluster_vectors(VectorStore.of(vectors), options)
    members = clusters.labels != NOISE
    assert adjusted_rand_score(labels[members], clusters.labels[members]) == 1.0
    assert curve["chosen"].tolist() == [True]
    assert curve["agreement"][0] > 0.5
    assert clusters.facts["min_cluster_size"] == 10


@pytest.mark.slow
def test_hdbscan_after_umap_finds_the_groups(groups, make_options):
    vectors, labels = groups((60, 40, 30), 32)
    clusters, _ = cluster_vectors(VectorStore.of(vectors), make_options(method="hdbscan"))
    assert adjusted_rand_score(labels, clusters.labels) > 0.9


def test_equal_vectors_and_vectors_without_direction_are_errors(make_options):
    with pytest.raises(ClusteringError, match="all vectors are equal"):
        cluster_vectors(VectorStore.of(np.ones((50, 3), np.float32)), make_options())
    with pytest.raises(ClusteringError, match="clusters is 9, but there are only 2 distinct vectors"):
        cluster_vectors(VectorStore.of(np.repeat(np.eye(2, dtype=np.float32), 25, axis=0)), make_options(clusters=9))
    vectors = np.ones((50, 3), np.float32)
    vectors[3] = np.nan
    with pytest.raises(VectorError, match=r"NaN or infinite \(row 4,"):
        cluster_vectors(VectorStore.of(vectors), make_options())


def test_a_draw_is_sorted_without_repetition_and_follows_from_the_seed():
    rows = draw(100, 30, 1)
    assert len(rows) == len(set(rows.tolist())) == 30
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, draw(100, 30, 1))
    assert draw(5, 30, 1).tolist() == [0, 1, 2, 3, 4]
