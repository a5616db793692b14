from __future__ import annotations

import numpy as np
import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.consensus import consensus_loss, soft_targets, with_partners
from embedding_adaptation.vectors.unit import unit_vectors

RNG = np.random.default_rng(0)
TEACHER = unit_vectors(RNG.normal(size=(20, 6)).astype(np.float32))


def test_the_loss_equals_the_obvious_loop():
    vectors = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    targets = soft_targets(TEACHER[:5], perplexity=2.0)
    unit = (vectors / vectors.norm(dim=1, keepdim=True)).numpy().astype(np.float64)
    total = 0.0
    for row in range(5):
        others = [column for column in range(5) if column != row]
        scores = np.array([unit[row] @ unit[column] / 0.1 for column in others])
        shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        total += sum(targets[row, c] * (np.log(targets[row, c]) - np.log(share)) for c, share in zip(others, shares, strict=True))
    assert consensus_loss(vectors, torch.from_numpy(targets), temperature=0.1).item() == pytest.approx(total / 5, rel=1e-4)


def test_the_loss_is_zero_where_the_student_says_what_the_teacher_says():
    cosines = TEACHER.astype(np.float64) @ TEACHER.T / 0.3
    np.fill_diagonal(cosines, -np.inf)
    targets = np.exp(cosines) / np.exp(cosines).sum(axis=1, keepdims=True)
    loss = consensus_loss(torch.from_numpy(TEACHER * 7), torch.from_numpy(targets.astype(np.float32)), temperature=0.3)
    assert loss.item() == pytest.approx(0.0, abs=1e-5)


def test_matryoshka_takes_the_mean_over_cut_vectors():
    vectors, targets = (
        torch.randn(6, 8, generator=torch.Generator().manual_seed(1)),
        torch.from_numpy(soft_targets(TEACHER[:6], perplexity=2)),
    )
    both = consensus_loss(vectors, targets, temperature=0.1, dimensions=(4, 8))
    alone = [consensus_loss(vectors[:, :width], targets, temperature=0.1) for width in (4, 8)]
    torch.testing.assert_close(both, sum(alone) / 2)


@pytest.mark.parametrize("perplexity", [1.5, 3.0, 8.0])
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_targets_have_the_perplexity_whatever_the_scale_of_similarities(perplexity, scale):
    near = unit_vectors(np.ones((1, 6), np.float32) / scale + TEACHER)
    shares = soft_targets(near, perplexity=perplexity).astype(np.float64)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)
    assert not shares.diagonal().any()
    entropies = -np.where(shares > 0, shares * np.log(np.maximum(shares, 1e-300)), 0.0).sum(axis=1)
    np.testing.assert_allclose(np.exp(entropies), perplexity, rtol=0.02)


def test_nearer_texts_have_larger_shares():
    shares = soft_targets(TEACHER, perplexity=4.0)
    similarities = TEACHER @ TEACHER.T
    for row in range(20):
        others = [column for column in range(20) if column != row]
        assert np.array_equal(np.argsort(similarities[row, others]), np.argsort(shares[row, others], kind="stable"))


def test_of_equal_texts_all_have_the_same_share():
    shares = soft_targets(np.ones((5, 3), np.float32) / np.sqrt(3).astype(np.float32), perplexity=12)
    np.testing.assert_allclose(shares[~np.eye(5, dtype=bool)], 0.25, rtol=1e-4)


def test_partners_share_their_weight_and_the_others_keep_the_rest():
    soft = soft_targets(TEACHER[:4], perplexity=1.2)
    mixed = with_partners(soft, [7, 3, 9, 5], {7: [3, 5, 100], 3: [7], 9: [200]}, 0.5)
    np.testing.assert_allclose(mixed[0], soft[0] * 0.5 + np.array([0, 0.25, 0, 0.25]), atol=1e-6)
    np.testing.assert_allclose(mixed[1], soft[1] * 0.5 + np.array([0.5, 0, 0, 0]), atol=1e-6)
    np.testing.assert_array_equal(mixed[2:], soft[2:])  # no partner of theirs is in the batch
    np.testing.assert_array_equal(with_partners(soft, [7, 3, 9, 5], {7: [3]}, 0.0), soft)
