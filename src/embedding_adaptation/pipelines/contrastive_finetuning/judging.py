"""Quality of the current weights, measured without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from embedding_adaptation.vectors import criteria
from embedding_adaptation.vectors.neighbours import nearest_neighbours
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Whether higher is better.
CRITERIA: Mapping[str, bool] = {
    "validation_loss": False,
    "validation_accuracy": True,
    "alignment": True,
    "uniformity": True,
    "effective_rank": True,
    "neighbour_agreement": True,
    "text_attention": True,
}
_NEIGHBOURS = 10


def validation_scores(anchors: np.ndarray, positives: np.ndarray, temperature: float) -> tuple[float, float]:
    """InfoNCE loss and retrieval accuracy at 1 on held-out pairs, each against all the others.

    Args:
        anchors: Unit vectors ``[N, D]``.
        positives: Unit vectors ``[N, D]``, row by row the anchors' positives.
        temperature: Temperature of the loss.

    Returns:
        Mean loss in nats, and the share of anchors whose own positive is the closest.
    """
    scores = anchors.astype(np.float64) @ positives.astype(np.float64).T / temperature  # [N, N]
    own = np.diag(scores)
    return float((logsumexp(scores, axis=1) - own).mean()), float((scores.argmax(axis=1) == np.arange(len(scores))).mean())


class Judge:
    """Evaluates weights on held-out pairs and unlabelled texts.

    Args:
        pairs: Held-out pairs' texts, anchors and positives.
        texts: Unlabelled texts.
        temperature: Temperature of the held-out loss.
        reference: Vectors ``[N, R]`` of the same texts by other means, such as the unadapted model's attention values; ``None`` leaves
            ``neighbour_agreement`` out.
        held_out: Texts that are never trained on, and the loss of their vectors ``[M, D]``, which is then the ``validation_loss``; ``None``
            takes InfoNCE of the pairs.
        attention: Gives the share of the last token's attention that lies on a text's own tokens; ``None`` leaves ``text_attention`` out.
    """

    def __init__(
        self,
        pairs: tuple[Sequence[str], Sequence[str]],
        texts: Sequence[str],
        temperature: float,
        *,
        reference: np.ndarray | None = None,
        attention: Callable[[], float] | None = None,
        held_out: tuple[Sequence[str], Callable[[np.ndarray], float]] | None = None,
    ) -> None:
        self.anchors, self.positives = list(pairs[0]), list(pairs[1])
        self.texts = list(texts)
        self.temperature = temperature
        self.attention = attention
        self.held_out = held_out
        self._reference = None if reference is None else nearest(reference)

    def scores(self, encode: Callable[[list[str]], np.ndarray]) -> dict[str, float]:
        """The criteria under the present weights.

        Args:
            encode: Embeds texts, ``[N, D]``.

        Returns:
            Values of :data:`CRITERIA` by name; those that cannot be measured are left out.

        References:
            - Alignment and uniformity: https://arxiv.org/abs/2005.10242
            - RankMe (``effective_rank``): https://arxiv.org/abs/2210.02885
        """
        apart = list(self.held_out[0]) if self.held_out else []
        vectors = encode([*self.anchors, *self.positives, *self.texts, *apart])  # [2 M + N + H, D]
        vectors, of_held_out = vectors[: len(vectors) - len(apart)], vectors[len(vectors) - len(apart) :]
        count = len(self.anchors)
        unit = unit_vectors(vectors)
        anchors, positives, texts = unit[:count], unit[count : 2 * count], unit[2 * count :]
        metrics: dict[str, float] = {}
        if count:
            loss, accuracy = validation_scores(anchors, positives, self.temperature)
            metrics = {"validation_loss": loss, "validation_accuracy": accuracy}
        if self.held_out:
            metrics["validation_loss"] = self.held_out[1](of_held_out)
        if not np.isfinite(vectors).all():  # the loop stops such a run; what can be told is told
            return metrics
        if count > 2:  # noqa: PLR2004  the least the criteria take
            metrics["alignment"] = criteria.alignment(anchors, positives)
        if len(texts) > 2:  # noqa: PLR2004
            metrics |= {"uniformity": criteria.uniformity(texts), "effective_rank": criteria.effective_rank(texts)}
        if self._reference is not None:
            metrics["neighbour_agreement"] = shared_neighbours(nearest(texts), self._reference)
        if self.attention is not None:
            metrics["text_attention"] = self.attention()
        return metrics


def nearest(vectors: np.ndarray) -> np.ndarray:
    """The ten nearest other rows of each by cosine of centred vectors, ``[N, 10]``, or fewer if there are fewer rows."""
    return nearest_neighbours(unit_vectors(vectors - vectors.mean(axis=0)), min(_NEIGHBOURS, len(vectors) - 1))[0]


def shared_neighbours(one: np.ndarray, other: np.ndarray) -> float:
    """The mean share of nearest neighbours ``[N, K]`` that two have in common."""
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(one.tolist(), other.tolist(), strict=True)]))


def best_step(rows: Sequence[Mapping[str, float]], criterion: str | None) -> int:
    """The first step with the best value. Without a criterion, or without values, the last step evaluated."""
    judged = [row for row in rows if criterion is not None and np.isfinite(row.get(criterion, np.nan))]
    if not judged or criterion is None:
        looked_at = [row for row in rows if "validation_loss" in row]
        return int((looked_at or list(rows))[-1]["step"])
    sign = 1 if CRITERIA[criterion] else -1
    return int(max(judged, key=lambda row: sign * row[criterion])["step"])


def is_exhausted(rows: Sequence[Mapping[str, float]], criterion: str | None, patience: int) -> bool:
    """Whether the last ``patience`` evaluations have brought no improvement."""
    looks = [int(row["step"]) for row in rows if criterion is not None and criterion in row]
    return bool(looks) and sum(step > best_step(rows, criterion) for step in looks) >= patience
