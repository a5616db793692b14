"""Questions of which a person's answers tell whether base or adapted model is better: texts on which the two disagree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_TEXTS = 3


@dataclass(frozen=True)
class Question:
    """Is ``text`` closer to the first or to the second of two others?

    Attributes:
        text: The text.
        first: One that is closer to it for one of the models.
        second: One that is closer to it for the other.
        first_is: ``base`` or ``adapted``: whose proposal the first is; the order is random.
    """

    text: str
    first: str
    second: str
    first_is: str

    def side(self, choice: str) -> str:
        """What an answer says: ``base``, ``adapted`` or ``neither``.

        Args:
            choice: ``first``, ``second`` or ``neither``.
        """
        other = {"base": "adapted", "adapted": "base"}[self.first_is]
        return {"first": self.first_is, "second": other, "neither": "neither"}[choice]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def questions_table(adapter: str, questions: Sequence[Question]) -> dict[str, Any]:
    """Questions as a JSON mapping, in which somebody else can add answers.

    Args:
        adapter: Fingerprint of the adapter they are about.
        questions: The questions.
    """
    return {"adapter": adapter, "questions": [question.to_dict() for question in questions]}


def disagreements(texts: Sequence[str], base: np.ndarray, adapted: np.ndarray, *, count: int, among: int, seed: int) -> list[Question]:
    """The questions on which two models disagree most.

    For each text, a model proposes that of its nearest neighbours which the other model finds furthest off. Only texts where each model
    prefers its own proposal make a question; of half of the texts, drawn at random, those with the greatest disagreement are taken.

    Args:
        texts: Distinct texts.
        base: Vectors of the texts under the base model ``[N, D]``, of any length.
        adapted: Likewise under the adapted model ``[N, D']``.
        count: Maximum number of questions.
        among: Number of nearest neighbours that proposals come from.
        seed: Seed of the draw and of the order.

    Returns:
        The questions in random order; fewer than ``count`` if the models agree on the rest.
    """
    if len(texts) < _LEAST_TEXTS:
        return []
    rng = np.random.default_rng(seed)
    (of_base, base_ranks), (of_adapted, adapted_ranks) = (_ranked(vectors) for vectors in (base, adapted))
    found = []
    for place in rng.permutation(len(texts)):
        near_base, near_adapted = (order[place, : min(among, len(texts) - 1)] for order in (of_base, of_adapted))
        one = near_base[adapted_ranks[place, near_base].argmax()]
        other = near_adapted[base_ranks[place, near_adapted].argmax()]
        gap = min(
            adapted_ranks[place, one] - adapted_ranks[place, other],
            base_ranks[place, other] - base_ranks[place, one],
        )
        if gap > 0:
            found.append((int(gap), int(place), int(one), int(other)))
    drawn = found[: max(count, len(found) // 2)]  # their order is random
    strongest = sorted(drawn, key=lambda row: -row[0])[: 2 * count]
    questions = []
    for row in rng.permutation(len(strongest))[:count]:
        _, place, one, other = strongest[row]
        first_is = "base" if rng.random() < 0.5 else "adapted"  # noqa: PLR2004  a coin
        first, second = (one, other) if first_is == "base" else (other, one)
        questions.append(Question(texts[place], texts[first], texts[second], first_is))
    return questions


def _ranked(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each text the others from the nearest on, ``[N, N]`` with itself last, and the rank of each, ``[N, N]``."""
    unit = unit_vectors(vectors)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(order))[None, :], axis=1)
    return order, ranks
