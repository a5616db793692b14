from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from embedding_adaptation.pipelines.text_clustering.options import StabilityOptions
from embedding_adaptation.pipelines.text_clustering.stability import Components, GroupsOnly, agreement_curve, choose_number, log_dispersion
from embedding_adaptation.vectors.kmeans import labels_from_ward
from embedding_adaptation.vectors.unit import unit_vectors

OPTIONS = StabilityOptions(candidates=(2, 3, 4, 6, 8, 12), pairs=4)


@pytest.fixture
def halves():
    """Eight groups, four on each of two sides that are much farther apart: vectors [240, 24] and groups [240]."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(8), 30))
    basis = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    centres = basis[:8] + 3.0 * basis[8 + np.arange(8) // 4]
    return unit_vectors(centres[labels] + 0.1 * rng.normal(size=(240, 24))), labels


def cloud(shape, seed=0, count=240):
    rng = np.random.default_rng(seed)
    return unit_vectors(2.0 * np.eye(len(shape))[0] + rng.normal(size=(count, len(shape))) * np.asarray(shape))


def test_the_true_number_of_groups_is_chosen(groups):
    choice, curve = choose_number(unit_vectors(groups((60, 60, 60, 60))[0]), (2, 3, 4, 5, 8), OPTIONS, seed=0)
    assert choice.clusters == 4
    assert choice.steps[-1] == 4
    assert curve["clusters"].tolist() == [2, 3, 4, 5, 8]
    row = curve.set_index("clusters").loc[4]
    assert row["agreement"] == 1.0
    assert row["reference"] < 0.8
    assert row["corrected"] == pytest.approx(1.0)


def test_two_groups_are_two(groups):
    assert choose_number(unit_vectors(groups((90, 60))[0]), OPTIONS.candidates, OPTIONS, seed=0)[0].clusters == 2


def test_a_stable_division_into_two_does_not_hide_the_groups_within(halves):
    matrix, _ = halves
    choice, curve = choose_number(matrix, OPTIONS.candidates, OPTIONS, seed=0)
    assert curve.set_index("clusters")["agreement"][2] == 1.0
    assert choice.clusters == 8


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_two_groups_so_far_apart_that_their_gap_is_the_covariance_are_two(seed):
    rng = np.random.default_rng(seed)
    axis = np.linalg.qr(rng.normal(size=(64, 2)))[0].T
    matrix = unit_vectors(axis[rng.integers(2, size=240)] + 0.05 * rng.normal(size=(240, 64)))  # 28 standard deviations
    choice, curve = choose_number(matrix, (2, 3, 4, 6), OPTIONS, seed=seed)
    assert choice.steps == (2,)
    row = curve.set_index("clusters").loc[2]
    assert row["agreement"] == 1.0
    assert row["reference"] > 0.95
    assert row["gap"] > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_a_long_cloud_that_is_halved_as_stably_has_no_groups(seed):
    matrix = cloud([0.05, 1.0] + [0.02] * 14, seed=seed, count=400)
    choice, curve = choose_number(matrix, (2, 3), OPTIONS, seed=seed)
    assert choice.steps == ()
    assert not (curve["gap"] >= 0.05).any()
    components = Components.of(matrix, 50)
    reference = GroupsOnly.of(matrix, np.zeros(400, int))
    drawn = [log_dispersion(components(reference.draw(np.random.default_rng(one))), [2]) for one in range(6)]
    assert np.mean(drawn) - log_dispersion(components(matrix), [2])[0] < 0.05


def test_the_dispersion_is_that_of_the_clusters_by_hand():
    points = np.array([[0.0], [2.0], [10.0], [12.0]], np.float32)
    np.testing.assert_allclose(np.exp(log_dispersion(points, [1, 2])), [104.0, 4.0])


def test_vectors_without_groups_have_no_structure_even_where_two_halves_come_out_again_and_again():
    choice, curve = choose_number(cloud([0.1, 1.5] + [0.15] * 14), OPTIONS.candidates, OPTIONS, seed=0)
    assert curve["agreement"][0] > 0.8
    assert choice.steps == ()
    assert choice.clusters in OPTIONS.candidates


def test_vectors_in_all_directions_have_no_structure():
    assert choose_number(cloud([0.3] * 32), OPTIONS.candidates, OPTIONS, seed=0)[0].steps == ()


def test_the_same_seed_gives_the_same_curve(halves):
    first, second = (choose_number(halves[0], (2, 4, 8), OPTIONS, seed=3)[1] for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_a_reference_has_the_mean_and_covariance_of_the_vectors_and_lies_on_the_sphere():
    matrix = cloud([0.1, 0.4, 0.2, 0.1], count=2000)
    drawn = GroupsOnly.of(matrix, np.zeros(2000, int)).draw(np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(drawn.mean(axis=0), matrix.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(matrix.T), atol=0.01)


def test_a_reference_of_groups_has_these_groups_at_their_scales():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 300)
    spread = np.where(groups, 0.2, 0.05)[:, None]
    matrix = unit_vectors(np.eye(6)[groups] + spread * rng.normal(size=(600, 6)))
    drawn = GroupsOnly.of(matrix, groups).draw(np.random.default_rng(1))
    assert adjusted_rand_score(groups, labels_from_ward(drawn, [2])[2]) > 0.95
    for group in (0, 1):
        assert drawn[groups == group].std(axis=0).mean() == pytest.approx(matrix[groups == group].std(axis=0).mean(), rel=0.15)


def test_a_group_of_one_vector_can_be_drawn():
    matrix = unit_vectors(np.random.default_rng(0).normal(size=(20, 5)))
    assert np.isfinite(GroupsOnly.of(matrix, np.array([0] * 19 + [1])).draw(np.random.default_rng(0))).all()


def test_components_keep_distances_where_there_are_no_more_directions():
    matrix = np.random.default_rng(0).normal(size=(40, 3)) @ np.random.default_rng(1).normal(size=(3, 12))
    points = Components.of(matrix, 50)(matrix)
    assert points.shape == (40, 3)
    np.testing.assert_allclose(np.linalg.norm(points[0] - points[1]), np.linalg.norm(matrix[0] - matrix[1]), rtol=1e-4)


def test_random_labels_agree_by_chance_only():
    rng = np.random.default_rng(0)
    curve = agreement_curve([np.zeros((150, 2))] * 6, lambda rows: {4: rng.integers(4, size=len(rows))}, 0.8, [0])
    assert abs(curve.loc[4, "agreement"]) < 0.05
    assert curve.loc[4, "pairs"] == 6
