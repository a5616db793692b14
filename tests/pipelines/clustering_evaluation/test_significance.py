from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.pipelines.clustering_evaluation.agreement import resampled_agreement
from embedding_adaptation.pipelines.clustering_evaluation.significance import (
    Estimate,
    SeedScores,
    estimate_difference,
    estimate_score,
    holm,
    in_words,
    mean_over_tasks,
)


def scores(mean, *, documents=0.02, luck=0.0, seeds=3, hardness=None):
    """Scores whose resamples share the hardness of the documents."""
    rng = np.random.default_rng(int(1000 * mean))
    hardness = np.random.default_rng(9).normal(size=400) if hardness is None else hardness
    points = mean + luck * (np.arange(seeds) - (seeds - 1) / 2)
    return SeedScores(points, points[:, None] + documents * hardness + 0.001 * rng.normal(size=(seeds, 400)))


def test_what_is_hard_for_both_cancels_in_a_paired_test():
    first, second = scores(0.53), scores(0.5)
    alone = estimate_score(first, 0.95)
    assert alone.low < 0.5 < alone.high
    paired = estimate_difference(first, second, 0.95)
    assert paired.value == pytest.approx(0.03)
    assert paired.low > 0.02
    assert paired.p_value < 1e-6
    unpaired = estimate_difference(first, scores(0.5, hardness=np.random.default_rng(1).normal(size=400)), 0.95)
    assert unpaired.p_value > 0.05


def test_the_luck_of_few_seeds_widens_an_interval():
    calm, lucky = estimate_difference(scores(0.53), scores(0.5), 0.95), estimate_difference(scores(0.53, luck=0.03), scores(0.5), 0.95)
    assert lucky.high - lucky.low > 3 * (calm.high - calm.low)
    assert lucky.p_value > 0.05
    many = estimate_difference(scores(0.53, luck=0.004, seeds=15), scores(0.5, seeds=15), 0.95)
    assert many.p_value < lucky.p_value


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Clusters that are right for 70 % of the documents: the accuracy's interval holds 0.7 in about 95 % of trials."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        labels = np.repeat(np.arange(4), 50)
        clusters = np.where(rng.random(200) < 0.7, labels, labels + 4)  # wrong ones in clusters of their own, so that the matching is fixed
        resampled = resampled_agreement(labels, clusters, resamples=100, seed=trial)["accuracy"]
        point = (clusters == labels).mean()
        estimate = estimate_score(SeedScores(np.array([point]), resampled[None]), 0.95)
        covered += estimate.low <= 0.7 <= estimate.high
    assert 180 <= covered <= 199


def test_the_level_of_resamples_does_not_move_an_estimate():
    """Copies raise V-measure on resamples; only the spread is used."""
    plain = scores(0.5)
    raised = SeedScores(plain.points, plain.resampled + 0.1)
    found, expected = estimate_score(raised, 0.95), estimate_score(plain, 0.95)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_holm_corrects_as_in_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("value", "p", "seeds", "words"),
    [
        (0.07, 0.001, 3, "real gain over base: +0.070 (+0.060 to +0.080)"),
        (-0.07, 0.001, 3, "real loss against base: -0.070 (-0.080 to -0.060)"),
        (0.07, 0.06, 3, "no difference from base shown: +0.070 (+0.060 to +0.080)"),
        (0.07, 0.001, 1, "real gain over base: +0.070 (+0.060 to +0.080); one seed, so random variation of the clustering is not included"),
    ],
)
def test_a_difference_is_said_in_words(value, p, seeds, words):
    assert in_words(Estimate(value, value - 0.01, value + 0.01, p), p, "base", confidence=0.95, seeds=seeds) == words


def test_a_mean_over_tasks_keeps_pairs_together_and_draws_tasks_apart():
    first, second = mean_over_tasks([scores(0.6), scores(0.4)]), mean_over_tasks([scores(0.55), scores(0.35)])
    assert first.mean == pytest.approx(0.5)
    assert np.corrcoef(first.resampled[0], second.resampled[0])[0, 1] > 0.9
    assert first.resampled.std() == pytest.approx(scores(0.6).resampled.std() / 2**0.5, rel=0.15)
    mixed = mean_over_tasks([scores(0.6, luck=0.1), scores(0.4, seeds=1)])
    np.testing.assert_allclose(mixed.points, [0.45, 0.5, 0.55])


def test_equal_scores_differ_by_nothing_and_unequal_shapes_are_refused():
    same = SeedScores(np.array([0.5]), np.full((1, 100), 0.5))
    assert estimate_difference(same, same, 0.95) == Estimate(0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="cannot be paired"):
        estimate_difference(scores(0.5), scores(0.5, seeds=2), 0.95)
