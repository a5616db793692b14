from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from embedding_adaptation.vectors.head import fit_head
from embedding_adaptation.vectors.unit import unit_vectors

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(80, 10)) * np.arange(1, 11)
VECTORS -= VECTORS.mean(axis=0)
TARGETS = VECTORS[:, :4] @ RNG.normal(size=(4, 6)) + RNG.normal(size=(80, 6)) + 3


@pytest.mark.parametrize("ridge", [0.01, 1.0, 10.0])
def test_mapped_vectors_have_the_cosines_of_ridge_regression(ridge):
    mapped = VECTORS @ fit_head(VECTORS, TARGETS, ridge=ridge)
    penalty = ridge * (VECTORS**2).sum() / 10
    by_sklearn = Ridge(alpha=penalty, fit_intercept=False).fit(VECTORS, TARGETS - TARGETS.mean(axis=0)).predict(VECTORS)
    found, wanted = (unit_vectors(rows) @ unit_vectors(rows).T for rows in (mapped, by_sklearn))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_strongest_dimensions_come_first_and_others_are_dropped():
    whole = VECTORS @ fit_head(VECTORS, TARGETS)
    assert whole.shape == (80, 6)  # no more than the teacher has
    spread = whole.std(axis=0)
    assert (np.diff(spread) <= 1e-6).all()
    np.testing.assert_allclose(VECTORS @ fit_head(VECTORS, TARGETS, dimensions=2), whole[:, :2], atol=1e-4)


@pytest.mark.parametrize(("texts", "width", "wide"), [(40, 60, 150), (200, 30, 90), (200, 30, 20), (40, 60, 50), (40, 60, 30)])
@pytest.mark.parametrize("dimensions", [None, 7])
def test_the_axes_are_those_of_all_of_the_mapped_vectors_dimensions(texts, width, wide, dimensions):
    """The slow way decomposes a matrix with a row for each of the teacher's dimensions."""
    vectors = RNG.normal(size=(texts, width)) * np.linspace(1, 9, width)
    vectors -= vectors.mean(axis=0)
    targets = RNG.normal(size=(texts, wide)) + vectors[:, :5] @ RNG.normal(size=(5, wide))
    found = fit_head(vectors, targets, dimensions=dimensions)
    gram = vectors.T @ vectors
    weights = np.linalg.solve(gram + np.trace(gram) / width * np.eye(width), vectors.T @ (targets - targets.mean(axis=0)))
    values, axes = np.linalg.eigh(weights.T @ gram @ weights)
    rank = min(int((values > 1e-10 * values[-1]).sum()), dimensions or wide)
    wanted = weights @ axes[:, ::-1][:, :rank]
    assert found.shape == wanted.shape
    signs = np.sign((found * wanted).sum(axis=0))
    np.testing.assert_allclose(found * signs, wanted, atol=1e-5 * np.abs(wanted).max())
    mapped, by_the_slow_way = (unit_vectors(vectors @ head) for head in (found, wanted))
    np.testing.assert_allclose(mapped @ mapped.T, by_the_slow_way @ by_the_slow_way.T, atol=1e-5)


def test_a_head_carries_over_to_texts_it_was_not_fitted_on():
    vectors = RNG.normal(size=(400, 10))
    teacher = vectors[:, :3] + 0.1 * RNG.normal(size=(400, 3))
    mapped = vectors[200:] @ fit_head(vectors[:200], teacher[:200])
    wanted = unit_vectors(teacher[200:]) @ unit_vectors(teacher[200:]).T
    before = np.corrcoef((unit_vectors(vectors[200:]) @ unit_vectors(vectors[200:]).T).ravel(), wanted.ravel())[0, 1]
    after = np.corrcoef((unit_vectors(mapped) @ unit_vectors(mapped).T).ravel(), wanted.ravel())[0, 1]
    assert after > 0.9 > before + 0.3


def test_equal_vectors_give_a_finite_map():
    assert np.isfinite(fit_head(np.zeros((5, 3)), np.ones((5, 2)))).all()
