from __future__ import annotations

import numpy as np
import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.collisions import Collisions, collision_rate, negative_weights
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.info_nce import info_nce
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError
from embedding_adaptation.vectors.unit import unit_vectors

RNG = np.random.default_rng(0)


def of_kinds(kinds):
    return unit_vectors((np.eye(4)[kinds] + 0.05 * RNG.normal(size=(len(kinds), 4))).astype(np.float32))


KINDS = np.repeat(np.arange(4), 5)
ANCHORS, POSITIVES = of_kinds(KINDS), of_kinds(KINDS)
SAME = KINDS[:, None] == KINDS[None, :]


def test_texts_of_the_anchors_kind_count_little_as_negatives_and_others_in_full():
    weights = negative_weights(ANCHORS, POSITIVES, perplexity=9.0, treatment="weight")  # five anchors and five positives of a kind
    assert weights.shape == (20, 20)
    assert weights[SAME].mean() < 0.35
    assert weights[~SAME].min() > 0.9
    assert ((weights >= 0) & (weights <= 1)).all()


def test_leaving_out_is_all_or_nothing():
    weights = negative_weights(ANCHORS, POSITIVES, perplexity=9.0, treatment="leave_out")
    assert set(np.unique(weights)) == {0.0, 1.0}
    assert weights[~SAME].all()
    assert weights[SAME].mean() < 0.3


def test_texts_are_looked_up():
    names = [f"text {row}" for row in range(40)]
    places = {name: row for row, name in enumerate(names)}
    collisions = Collisions(np.concatenate([ANCHORS, POSITIVES]), places, perplexity=9.0, treatment="weight")
    expected = negative_weights(ANCHORS[:6], POSITIVES[:6], perplexity=9.0, treatment="weight")
    np.testing.assert_array_equal(collisions.weights(names[:6], names[20:26]), expected)


def test_a_weighted_negative_is_that_much_of_one_and_the_own_positive_always_counts():
    one, two = (torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    weights = torch.tensor([[0.0, 0.5, 1.0, 0.0], [1.0, 0.0, 0.25, 1.0], [1.0, 1.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.0]])
    cosines = torch.nn.functional.cosine_similarity(one[:, None], two[None], dim=-1) / 0.1
    counted = weights.clone().fill_diagonal_(1.0)
    expected = -(cosines.diagonal() - (counted * cosines.exp()).sum(dim=1).log()).mean()
    assert info_nce(one, two, temperature=0.1, symmetric=False, negative_weights=weights).item() == pytest.approx(expected.item(), rel=1e-5)
    turned = info_nce(two, one, temperature=0.1, negative_weights=weights.T)
    assert info_nce(one, two, temperature=0.1, negative_weights=weights).item() == pytest.approx(turned.item(), rel=1e-6)


def test_weights_of_one_change_nothing_and_zeros_leave_out():
    one, two, hard = (torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
    plain = info_nce(one, two, hard, temperature=0.1)
    assert info_nce(one, two, hard, temperature=0.1, negative_weights=torch.ones(5, 5)).item() == pytest.approx(plain.item(), rel=1e-6)
    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(4)) < 0.4
    left_out = info_nce(one, two, hard, temperature=0.1, left_out=mask)
    assert info_nce(one, two, hard, temperature=0.1, negative_weights=(~mask).float()).item() == pytest.approx(left_out.item(), rel=1e-6)


@pytest.mark.parametrize(("sizes", "within"), [((50, 50), 0.01), ((25,) * 8, 0.01), ((80, 40, 40, 40), 0.05), ((160, 20, 20), 0.25)])
def test_the_collision_rate_is_the_sum_of_squared_shares(sizes, within):
    """Exactly for classes of one size, roughly for others."""
    kinds = np.repeat(np.arange(len(sizes)), sizes)
    teacher = unit_vectors((np.eye(8)[kinds] + 0.02 * RNG.normal(size=(len(kinds), 8))).astype(np.float32))
    shares = np.array(sizes) / sum(sizes)
    assert collision_rate(teacher) == pytest.approx((shares**2).sum(), abs=within)


def test_texts_of_no_kind_hardly_collide():
    assert collision_rate(RNG.normal(size=(500, 64)).astype(np.float32)) < 0.03


@pytest.mark.parametrize("treatment", ["leave_out", "weight"])
def test_training_asks_the_teacher_and_goes_another_way(job_of, corpus, tmp_path, treatment, caplog):
    apart = {"near_duplicate": None, "teacher": treatment}
    teacher = {"strategy": "bare_mean", "neighbours": 3}
    plain, _ = train(job_of(corpus=corpus))
    job = job_of(corpus=corpus, false_negatives=apart, embedder={"teacher": teacher}, checkpoints=tmp_path)
    adapted, history = train(job)
    assert 0 < adapted.collision_rate < 1
    assert plain.collision_rate is None
    assert list((tmp_path / "teachers").iterdir())
    assert "a format other than" not in caplog.text
    assert history["tokens"].iloc[0] > 0  # the teacher's reading counts
    weights = [dict(model.model.named_parameters()) for model in (plain, adapted)]
    assert any(not torch.equal(weight, weights[1][name]) for name, weight in weights[0].items() if "lora_B" in name)
    assert job.fingerprint(max_length=64, dtype="float32") != job_of(corpus=corpus).fingerprint(max_length=64, dtype="float32")


def test_a_teacher_that_is_not_there_is_refused(job_of):
    job = job_of(false_negatives={"near_duplicate": None, "teacher": "weight"}, embedder={"teacher": {"strategy": "nobody"}})
    with pytest.raises(TrainingError, match=r"unknown strategy 'nobody' in embedder.teacher, which contrastive_finetuning.false_negatives"):
        train(job)
