"""InfoNCE with in-batch negatives, and which negatives do not count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedding_adaptation.pipelines.contrastive_finetuning.pair_groups import conflicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions


_LEAST_WEIGHT = 1e-6  # a lower weight has no finite logarithm, and those that are zero are left out


def info_nce(
    anchors: torch.Tensor,
    positives: torch.Tensor,
    negatives: torch.Tensor | None = None,
    *,
    temperature: float,
    margin: float = 0.0,
    symmetric: bool = True,
    left_out: torch.Tensor | None = None,
    negative_weights: torch.Tensor | None = None,
    false_negative_margin: float | None = None,
    dimensions: Sequence[int] = (),
) -> torch.Tensor:
    """Mean InfoNCE loss in nats.

    Each anchor is to find its positive among all positives (and hard negatives); symmetric, each positive its anchor among all anchors too.

    Args:
        anchors: ``[B, D]``, of any length.
        positives: ``[B, D]``, row by row the anchors' positives.
        negatives: Hard negatives ``[M, D]``, candidates of every anchor.
        temperature: Divides the cosines; lower looks harder at close negatives.
        margin: By how much a positive's cosine must exceed the others' (subtracted from it).
        symmetric: Whether the mean of both directions is taken.
        left_out: Bool ``[B, B]``, pairs of anchor and other positive that are no negatives.
        negative_weights: ``[B, B]`` between 0 and 1, how much the other positives count as negatives; ``None`` counts all in full.
        false_negative_margin: Others whose cosine exceeds the positive's by more than this are taken for positives, and left out.
        dimensions: Matryoshka: the mean of the losses of vectors cut to these dimensions; none takes them whole.

    Returns:
        A scalar.

    References:
        - InfoNCE with in-batch negatives: https://arxiv.org/abs/1705.00652
        - Additive margin: https://arxiv.org/abs/1902.08564
        - Leaving out likely false negatives: https://arxiv.org/abs/2402.16829
        - Matryoshka representation learning: https://arxiv.org/abs/2205.13147
    """
    losses = []
    for dimension in dimensions or (anchors.shape[1],):
        unit = [
            None if vectors is None else torch.nn.functional.normalize(vectors[:, :dimension].float(), dim=-1)
            for vectors in (anchors, positives, negatives)
        ]  # [B, d], [B, d], [M, d]
        one, two, hard = unit
        assert one is not None  # noqa: S101  only hard negatives may be missing
        assert two is not None  # noqa: S101
        cosines = one @ two.T  # [B, B]
        given = temperature, margin, false_negative_margin
        directions = [_direction(cosines, None if hard is None else one @ hard.T, left_out, negative_weights, *given)]
        if symmetric:
            turned, weights = (None if of_pairs is None else of_pairs.T for of_pairs in (left_out, negative_weights))
            directions.append(_direction(cosines.T, None, turned, weights, *given))
        losses.append(torch.stack(directions).mean())
    return torch.stack(losses).mean()


def _direction(
    cosines: torch.Tensor,
    of_hard: torch.Tensor | None,
    left_out: torch.Tensor | None,
    weights: torch.Tensor | None,
    temperature: float,
    margin: float,
    false_negative_margin: float | None,
) -> torch.Tensor:
    own = torch.arange(len(cosines), device=cosines.device)  # [B]
    is_own = torch.zeros_like(cosines, dtype=torch.bool)
    is_own[own, own] = True
    scores = cosines - margin * is_own  # [B, B]
    barred = torch.zeros_like(is_own) if left_out is None else left_out & ~is_own
    logarithms = torch.zeros_like(cosines)  # of the weights
    if weights is not None:
        barred = barred | ((weights <= 0) & ~is_own)
        logarithms = weights.clamp_min(_LEAST_WEIGHT).log().masked_fill(is_own, 0.0)
    if of_hard is not None:
        scores = torch.cat([scores, of_hard], dim=1)  # [B, B + M]
        barred, is_own, logarithms = (torch.nn.functional.pad(each, (0, of_hard.shape[1])) for each in (barred, is_own, logarithms))
    if false_negative_margin is not None:
        limit = cosines.diagonal()[:, None].detach() + false_negative_margin  # [B, 1]
        barred = barred | ((scores.detach() > limit) & ~is_own)
    return torch.nn.functional.cross_entropy((scores / temperature + logarithms).masked_fill(barred, float("-inf")), own)


def contrastive_loss(
    columns: Sequence[torch.Tensor], groups: np.ndarray, options: FinetuningOptions, weights: np.ndarray | None = None
) -> torch.Tensor:
    """InfoNCE as configured, without negatives that share a group with the pair.

    Args:
        columns: ``[B, D]`` each: anchors, positives and, where there are any, hard negatives.
        groups: ``[B, 2]``, groups of both sides of each pair.
        options: Fine-tuning options.
        weights: ``[B, B]``, how much each positive counts as a negative of each anchor; ``None`` counts all in full.
    """
    device = columns[0].device
    return info_nce(
        *columns,
        temperature=options.temperature,
        margin=options.margin,
        symmetric=options.symmetric,
        left_out=torch.from_numpy(conflicts(groups)).to(device),  # [B, B]
        negative_weights=None if weights is None else torch.from_numpy(weights).to(device),
        false_negative_margin=options.false_negatives.margin,
        dimensions=options.matryoshka_dimensions,
    )
