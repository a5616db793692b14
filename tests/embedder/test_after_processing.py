from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.embedder.after_processing import AfterProcessing, AfterSteps

VECTORS = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32) + 3


def test_centring_moves_the_mean_to_zero():
    after = AfterProcessing.fit(VECTORS, AfterSteps(centre=True))
    np.testing.assert_allclose(after.apply(VECTORS).mean(axis=0), 0, atol=1e-5)


def test_removed_components_are_gone_and_the_rest_stays():
    processed = AfterProcessing.fit(VECTORS, AfterSteps(remove_components=2)).apply(VECTORS)
    before = np.linalg.svd(VECTORS - VECTORS.mean(axis=0), compute_uv=False)
    after = np.linalg.svd(processed, compute_uv=False)
    np.testing.assert_allclose(after[:6], before[2:], rtol=1e-4)
    np.testing.assert_allclose(after[6:], 0, atol=1e-3)


def test_whitened_vectors_have_the_identity_as_covariance():
    processed = AfterProcessing.fit(VECTORS, AfterSteps(whiten=True, dimensions=5)).apply(VECTORS)
    np.testing.assert_allclose(np.cov(processed.T), np.eye(5), atol=1e-3)


def test_whitening_leaves_out_directions_that_hold_nothing():
    flat = VECTORS.copy()
    flat[:, 7] = flat[:, 0]
    assert AfterProcessing.fit(flat, AfterSteps(whiten=True)).apply(flat).shape == (200, 7)


def test_cut_dimensions_are_the_first_ones():
    np.testing.assert_array_equal(AfterProcessing.fit(VECTORS, AfterSteps(dimensions=3)).apply(VECTORS), VECTORS[:, :3])


@pytest.mark.parametrize(
    ("steps", "count", "message"),
    [
        (AfterSteps(dimensions=9), 200, "keep 9 dimensions of vectors that have 8"),
        (AfterSteps(remove_components=3), 4, "needs more than 4 unlabelled texts.*but got 4 texts"),
        (AfterSteps(whiten=True, remove_components=4, dimensions=5), 200, "keep 5 dimensions"),
    ],
)
def test_too_few_texts_or_dimensions_are_an_error(steps, count, message):
    with pytest.raises(ValueError, match=message):
        AfterProcessing.fit(VECTORS[:count], steps)
