from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.vectors.unit import unit_and_direction, unit_vectors

VECTORS = np.random.default_rng(0).normal(size=(7, 5))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_length_is_one_whatever_it_was_and_the_direction_stays(dtype, scale):
    given = (scale * VECTORS).astype(dtype)
    unit = unit_vectors(given)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0, rtol=2e-3 if dtype == np.float16 else 1e-6)
    np.testing.assert_allclose(unit, VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True), atol=2e-3 if dtype == np.float16 else 1e-6)


def test_what_has_no_direction_is_told_and_never_grows_beyond_one():
    given = np.array([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
    unit, has_direction = unit_and_direction(given)
    assert has_direction.tolist() == [True, False, False, False, False]
    np.testing.assert_allclose(unit[0], [0.6, 0.8], rtol=1e-6)
    assert not unit[1].any()
    assert np.abs(unit[2]).max() < 1.0
    assert np.isnan(unit[3:]).any(axis=1).all()


def test_no_vectors_have_no_directions():
    unit, has_direction = unit_and_direction(np.empty((0, 4), np.float32))
    assert unit.shape == (0, 4)
    assert has_direction.shape == (0,)


def test_the_given_array_changes_only_where_asked():
    given = VECTORS.astype(np.float32)
    before = given.copy()
    unit = unit_vectors(given)
    np.testing.assert_array_equal(given, before)
    assert unit_vectors(given, out=given) is given
    np.testing.assert_array_equal(given, unit)
