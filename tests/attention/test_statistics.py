from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.attention.statistics import (
    bootstrapped_rank_correlation,
    paired_bootstrap,
    rank_correlation,
)


def test_the_interval_is_that_of_the_normal_theory_for_many_texts():
    random = np.random.default_rng(0)
    differences = random.normal(0.3, 1.0, size=(400, 1))
    mean, low, high = (float(value[0]) for value in paired_bootstrap(differences, resamples=4000))
    width = 1.96 * differences.std() / 20
    assert mean == pytest.approx(differences.mean())
    assert low == pytest.approx(mean - width, abs=0.012)
    assert high == pytest.approx(mean + width, abs=0.012)


def test_a_higher_confidence_is_a_wider_interval_and_the_seed_decides():
    differences = np.random.default_rng(0).normal(size=(30, 2))
    narrow, wide = (paired_bootstrap(differences, confidence=level, seed=1) for level in (0.5, 0.99))
    assert (wide[1] < narrow[1]).all()
    assert (wide[2] > narrow[2]).all()
    assert np.array_equal(paired_bootstrap(differences, seed=1)[1], paired_bootstrap(differences, seed=1)[1])
    assert not np.array_equal(paired_bootstrap(differences, seed=1)[1], paired_bootstrap(differences, seed=2)[1])


def test_texts_without_a_value_are_left_out_column_by_column():
    values = np.array([[1.0, np.nan, np.nan], [1.0, 2.0, np.nan], [1.0, 2.0, np.nan], [1.0, 2.0, np.nan]])
    mean, low, high = paired_bootstrap(values, resamples=50)
    assert mean[:2].tolist() == low[:2].tolist() == high[:2].tolist() == [1.0, 2.0]
    assert np.isnan([mean[2], low[2], high[2]]).all()


def test_rank_correlation_knows_order_ties_and_too_little():
    left = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(left, left**3) == pytest.approx(1)
    assert rank_correlation(left, -left) == pytest.approx(-1)
    assert np.isnan(rank_correlation(left, np.ones(4)))
    assert np.isnan(rank_correlation(left[:2], left[:2]))
    assert rank_correlation(left, np.array([1.0, np.nan, 2.0, 3.0])) == pytest.approx(1)


def test_the_interval_of_a_correlation_holds_it():
    random = np.random.default_rng(0)
    left = random.normal(size=60)
    found, low, high = bootstrapped_rank_correlation(left, left + random.normal(size=60), resamples=300)
    assert -1 <= low < found < high <= 1
    assert np.isnan(bootstrapped_rank_correlation(left, np.zeros(60))).all()
