"""The consensus loss: a batch's similarities are to be those of a teacher.

InfoNCE has one positive for each text and pushes all others away, those of its own kind among them. Here the teacher says how much
two texts of a batch are of one kind, and no text is a negative of its like: InfoNCE with soft positives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HALVINGS = 40
_LOWEST, _HIGHEST = 1e-8, 10.0  # temperatures


def consensus_loss(vectors: torch.Tensor, targets: torch.Tensor, *, temperature: float, dimensions: Sequence[int] = ()) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of a batch's similarities from the teacher's, in nats; 0 if they agree.

    Args:
        vectors: ``[B, D]``, of any length.
        targets: ``[B, B]``: row by row the shares of the other texts, which add up to 1; the diagonal is zero. From :func:`soft_targets`.
        temperature: Divides the cosines.
        dimensions: Matryoshka: the mean of the losses of vectors cut to these dimensions; none takes them whole.

    Returns:
        A scalar.

    References:
        - Distilling similarities within a batch (RankCSE, with ListNet's loss): https://arxiv.org/abs/2305.16726
        - Matryoshka representation learning: https://arxiv.org/abs/2205.13147
    """
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    targets = targets.to(vectors.device)
    losses = []
    for dimension in dimensions or (vectors.shape[1],):
        unit = torch.nn.functional.normalize(vectors[:, :dimension].float(), dim=-1)  # [B, d]
        scores = (unit @ unit.T / temperature).masked_fill(own, float("-inf"))  # [B, B]
        shares = torch.log_softmax(scores, dim=1).masked_fill(own, 0.0)  # [B, B]
        losses.append((torch.xlogy(targets, targets) - targets * shares).sum(dim=1).mean())
    return torch.stack(losses).mean()


def soft_targets(teacher: np.ndarray, *, perplexity: float) -> np.ndarray:
    """Each text's neighbours in a batch as shares, as sharply as the perplexity says.

    Each row has a temperature of its own, at which its shares have the entropy of a uniform choice among ``perplexity`` texts. So texts in
    dense and in sparse places have as many neighbours, and similarities of any scale will do.

    Args:
        teacher: The teacher's unit vectors ``[B, T]``.
        perplexity: Effective number of neighbours; at most half of the others is used.

    Returns:
        ``[B, B]`` float32 with rows that add up to 1 and a zero diagonal.

    References:
        Hinton and Roweis, Stochastic neighbor embedding (NIPS 2002).
    """
    similarities = teacher.astype(np.float64) @ teacher.astype(np.float64).T
    count = len(similarities)
    np.fill_diagonal(similarities, -np.inf)
    wanted = np.log(max(1.0, min(perplexity, (count - 1) / 2)))
    low, high = np.full((count, 1), np.log(_LOWEST)), np.full((count, 1), np.log(_HIGHEST))
    shares = np.empty_like(similarities)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        scaled = (similarities - similarities.max(axis=1, keepdims=True)) / np.exp(middle)
        shares = np.exp(scaled)
        shares /= shares.sum(axis=1, keepdims=True)
        logarithms = np.log(np.maximum(shares, 1e-300))
        is_flat = -(shares * logarithms).sum(axis=1, keepdims=True) > wanted
        low, high = np.where(is_flat, low, middle), np.where(is_flat, middle, high)
    return shares.astype(np.float32)


def with_partners(targets: np.ndarray, batch: Sequence[int], partners: Mapping[int, Sequence[int]], weight: float) -> np.ndarray:
    """Give texts that are known to belong together a share of each other's targets.

    Args:
        targets: ``[B, B]`` from :func:`soft_targets`.
        batch: The batch's texts, ``[B]``.
        partners: For each text that has any, the texts it belongs to by a pair that was generated or given.
        weight: Their share of a row, divided evenly among those in the batch; the others keep the rest.

    Returns:
        ``[B, B]``, rows of which add up to 1.
    """
    place = {text: row for row, text in enumerate(batch)}
    mixed = targets.copy()
    for row, text in enumerate(batch):
        present = [place[other] for other in partners.get(text, ()) if other in place]
        if present and weight:
            mixed[row] *= 1.0 - weight
            mixed[row, present] += weight / len(present)
    return mixed
