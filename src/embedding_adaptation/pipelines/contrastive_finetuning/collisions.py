"""Collisions: texts of a batch that InfoNCE takes for negatives although they are of the anchor's kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from embedding_adaptation.pipelines.contrastive_finetuning.consensus import soft_targets
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CollisionTreatment = Literal["leave_out", "weight"]


def negative_weights(anchors: np.ndarray, positives: np.ndarray, *, perplexity: float, treatment: CollisionTreatment) -> np.ndarray:
    """How much each positive of a batch counts as a negative of each anchor.

    A text is taken to be of the anchor's kind with the probability ``min(1, perplexity * share)``, where the shares are the teacher's
    soft targets: a text that has its even share among ``perplexity`` neighbours is one of them.

    Args:
        anchors: The teacher's unit vectors of the anchors ``[B, T]``.
        positives: Likewise of the positives ``[B, T]``.
        perplexity: Effective number of a text's neighbours in the batch.
        treatment: ``weight`` counts a negative by the probability that it is one; ``leave_out`` counts those that are more likely
            negatives than not, and no others.

    Returns:
        ``[B, B]`` float32 between 0 and 1; the diagonal, the own positives, has no meaning.

    References:
        - Debiased contrastive learning: https://arxiv.org/abs/2007.00224
        - Shares by perplexity: :func:`~.consensus.soft_targets`
    """
    count = len(anchors)
    shares = soft_targets(np.concatenate([anchors, positives]), perplexity=perplexity)[:count, count:]  # [B, B]
    alike = np.minimum(1.0, perplexity * shares)
    return (alike <= 0.5 if treatment == "leave_out" else 1.0 - alike).astype(np.float32)  # noqa: PLR2004  more likely than not


def collision_rate(teacher: np.ndarray) -> float:
    """The estimated chance that two random texts are of one kind: m / (1 + m), if m is the mean squared cosine of the centred vectors.

    It is exact for k classes of equal size whose texts coincide and whose directions have the same angles to each other: vectors of
    different classes then have the cosine -1 / (k - 1), so that m is 1 / (k - 1). With one large class it is too low. What counts as one
    kind is the teacher's view; labels may be coarser or finer.

    Args:
        teacher: Vectors ``[N, T]``.
    """
    unit = unit_vectors(teacher - teacher.mean(axis=0)).astype(np.float64)
    count = len(unit)
    squared = float(((unit.T @ unit) ** 2).sum() - count) / max(count * (count - 1), 1)  # of pairs of different texts
    return squared / (1 + squared)


class Collisions:
    """What the teacher says of the negatives of pairs.

    Args:
        teacher: Unit vectors ``[N, T]``.
        places: The row of each text.
        perplexity: Effective number of a text's neighbours in a batch.
        treatment: What becomes of likely false negatives.
    """

    def __init__(self, teacher: np.ndarray, places: Mapping[str, int], *, perplexity: float, treatment: CollisionTreatment) -> None:
        self.teacher = teacher
        self.places = places
        self.perplexity = perplexity
        self.treatment = treatment

    def weights(self, anchors: Sequence[str], positives: Sequence[str]) -> np.ndarray:
        """:func:`negative_weights` of a batch's texts, ``[B, B]``."""
        one, two = (self.teacher[[self.places[text] for text in texts]] for texts in (anchors, positives))
        return negative_weights(one, two, perplexity=self.perplexity, treatment=self.treatment)
