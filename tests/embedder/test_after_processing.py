from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.embedder.after_processing import AfterProcessing, AfterSteps
from embedding_adaptation.vectors.head import fit_head

VECTORS = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32) + 3


def test_centring_moves_the_mean_to_zero():
    after = AfterProcessing.fit(VECTORS, AfterSteps(centre=True))
    np.testing.assert_allclose(after.apply(VECTORS).mean(axis=0), 0, atol=1e-5)


def test_a_share_of_the_mean_can_be_subtracted():
    after = AfterProcessing.fit(VECTORS, AfterSteps(centre=0.25))
    np.testing.assert_allclose(after.apply(VECTORS), VECTORS - 0.25 * VECTORS.mean(axis=0), atol=1e-5)


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


def test_each_part_is_centred_and_has_unit_length():
    after = AfterProcessing.fit(VECTORS, AfterSteps(centre=True), parts=2)
    parts = [VECTORS[:, :4] - VECTORS[:, :4].mean(axis=0), VECTORS[:, 4:] - VECTORS[:, 4:].mean(axis=0)]
    by_hand = np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], axis=1) / np.sqrt(2)
    np.testing.assert_allclose(after.apply(VECTORS), by_hand, atol=1e-5)


def test_components_are_removed_from_each_part():
    processed = AfterProcessing.fit(VECTORS, AfterSteps(remove_components=1), parts=2).apply(VECTORS)
    alone = AfterProcessing.fit(VECTORS[:, 4:], AfterSteps(remove_components=1)).apply(VECTORS[:, 4:])
    unit = alone / np.linalg.norm(alone, axis=1, keepdims=True) / np.sqrt(2)
    np.testing.assert_allclose(processed[:, 4:], unit, atol=1e-5)


def test_fewer_dimensions_of_several_parts_keep_as_much_of_the_similarities_as_possible():
    whole = AfterProcessing.fit(VECTORS, AfterSteps(centre=True), parts=2).apply(VECTORS)
    after = AfterProcessing.fit(VECTORS, AfterSteps(centre=True, dimensions=3), parts=2)
    projected = after.apply(VECTORS)
    assert projected.shape == (200, 3)
    assert after.dimensions == 3
    strengths = np.linalg.svd(whole, compute_uv=False)
    lost = np.linalg.norm(whole @ whole.T - projected @ projected.T)
    np.testing.assert_allclose(lost, np.sqrt((strengths[3:] ** 4).sum()), rtol=1e-3)  # Eckart and Young: no rank 3 loses less


def test_more_dimensions_than_there_are_vectors_of_several_parts_are_an_error():
    with pytest.raises(ValueError, match="keep 5 principal dimensions of 4 vectors"):
        AfterProcessing.fit(VECTORS[:4], AfterSteps(centre=True, dimensions=5), parts=2)


@pytest.mark.parametrize("steps", [AfterSteps(centre=True), AfterSteps(whiten=True, dimensions=3)])
@pytest.mark.parametrize("parts", [1, 2])
def test_restored_after_processing_is_the_same(steps, parts):
    after = AfterProcessing.fit(VECTORS, steps, parts)
    restored = AfterProcessing.restored(after.arrays(), {name: str(value) for name, value in after.settings().items()})
    np.testing.assert_array_equal(restored.apply(VECTORS), after.apply(VECTORS))


@pytest.mark.parametrize("parts", [1, 2])
def test_distilled_vectors_come_close_to_the_teacher(parts):
    targets = VECTORS[:, [2, 5, 6]] - VECTORS[:, [2, 5, 6]].mean(axis=0)
    after = AfterProcessing.fit(VECTORS, AfterSteps(distil=0.01), parts, targets)
    wanted, plain, found = (
        (unit := rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ unit.T
        for rows in (targets, VECTORS - VECTORS.mean(axis=0), after.apply(VECTORS))
    )
    assert after.dimensions == after.apply(VECTORS).shape[1] <= 3
    assert np.abs(found - wanted).mean() < 0.6 * np.abs(plain - wanted).mean()


def test_distilling_follows_the_other_steps():
    targets = VECTORS[:, :3]
    steps = AfterSteps(remove_components=2, distil=1.0)
    before = AfterProcessing.fit(VECTORS, AfterSteps(remove_components=2)).apply(VECTORS)
    np.testing.assert_allclose(
        AfterProcessing.fit(VECTORS, steps, targets=targets).apply(VECTORS), before @ fit_head(before, targets), atol=1e-3
    )


@pytest.mark.parametrize(
    ("steps", "targets", "message"),
    [
        (AfterSteps(distil=1.0), None, "needs a teacher's vectors of the same texts; give targets"),
        (AfterSteps(distil=1.0), VECTORS[:7], "distilling 200 vectors needs a teacher's vectors"),
        (AfterSteps(distil=1.0, dimensions=9), VECTORS, "cannot keep 9 of the 8 dimensions"),
    ],
)
def test_a_head_without_a_teacher_is_an_error(steps, targets, message):
    with pytest.raises(ValueError, match=message):
        AfterProcessing.fit(VECTORS, steps, targets=targets)
