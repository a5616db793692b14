from __future__ import annotations

import math

import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.info_nce import info_nce


def vectors(count=5, width=6):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, width, generator=generator) for _ in range(3)]


def by_hand(anchors, positives, negatives=(), temperature=0.1, margin=0.0, left_out=()):
    """The mean over anchors, term by term."""
    cosine = torch.nn.functional.cosine_similarity
    losses = []
    for row, anchor in enumerate(anchors):
        own = math.exp((cosine(anchor, positives[row], dim=0) - margin) / temperature)
        others = [
            math.exp(cosine(anchor, other, dim=0) / temperature)
            for place, other in enumerate(positives)
            if place != row and (row, place) not in left_out
        ]
        hard = [math.exp(cosine(anchor, other, dim=0) / temperature) for other in negatives]
        losses.append(-math.log(own / (own + sum(others) + sum(hard))))
    return sum(losses) / len(losses)


def test_one_direction_is_the_mean_over_anchors():
    one, two, _ = vectors()
    assert info_nce(one, two, temperature=0.1, symmetric=False).item() == pytest.approx(by_hand(one, two), rel=1e-5)


def test_both_directions_are_averaged():
    one, two, _ = vectors()
    expected = (by_hand(one, two) + by_hand(two, one)) / 2
    assert info_nce(one, two, temperature=0.1).item() == pytest.approx(expected, rel=1e-5)


def test_hard_negatives_are_candidates_of_every_anchor():
    one, two, three = vectors()
    value = info_nce(one, two, three, temperature=0.1, symmetric=False)
    assert value.item() == pytest.approx(by_hand(one, two, three), rel=1e-5)


def test_a_margin_is_taken_from_the_positive():
    one, two, _ = vectors()
    value = info_nce(one, two, temperature=0.1, margin=0.2, symmetric=False)
    assert value.item() == pytest.approx(by_hand(one, two, margin=0.2), rel=1e-5)


def test_what_is_left_out_is_no_negative_and_the_own_positive_always_counts():
    one, two, _ = vectors()
    mask = torch.eye(5, dtype=torch.bool)
    mask[0, 3] = mask[2, 1] = True
    value = info_nce(one, two, temperature=0.1, symmetric=False, left_out=mask)
    assert value.item() == pytest.approx(by_hand(one, two, left_out={(0, 3), (2, 1)}), rel=1e-5)
    turned = info_nce(two, one, temperature=0.1, left_out=mask.T)
    assert info_nce(one, two, temperature=0.1, left_out=mask).item() == pytest.approx(turned.item(), rel=1e-6)


def test_what_is_closer_than_the_positive_by_the_margin_is_left_out():
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positives = torch.tensor([[0.6, 0.8], [1.0, 0.0]])  # the second positive is closer to the first anchor than its own
    kept = info_nce(anchors, positives, temperature=0.1, symmetric=False, false_negative_margin=0.9)
    dropped = info_nce(anchors, positives, temperature=0.1, symmetric=False, false_negative_margin=0.3)
    assert kept.item() == pytest.approx(by_hand(anchors, positives), rel=1e-4)
    assert dropped.item() == pytest.approx(by_hand(anchors, positives, left_out={(0, 1), (1, 0)}), abs=1e-5)


def test_matryoshka_is_the_mean_over_vectors_cut_short():
    one, two, _ = vectors()
    value = info_nce(one, two, temperature=0.1, dimensions=(2, 6))
    cut = [info_nce(one[:, :width], two[:, :width], temperature=0.1) for width in (2, 6)]
    assert value.item() == pytest.approx(sum(cut).item() / 2, rel=1e-6)
