"""How far the groups that vectors form agree with those of an independent view of the same texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score

from embedding_adaptation.vectors.threads import threads_of_passes
from embedding_adaptation.vectors.unit import unit_vectors
from embedding_adaptation.vectors.words import character_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

CLUSTERS = (5, 10, 20)
FEWEST = 2 * min(CLUSTERS)  # texts
_SEEDS = 4


class CharacterView:
    """The groups of texts by their characters alone, as a witness that no language model has a part in.

    Neither view is right: texts of one kind need not share characters, and characters know nothing of meaning. But what two views agree on
    that err for different reasons is more likely to be there. So if vectors of the same texts come to agree more with this one, they
    have most likely become better, and worse if less (measured: ``benchmarks/verdict.py``).

    Args:
        texts: The texts, at least :data:`FEWEST`.

    Raises:
        ValueError: If there are too few texts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        if len(texts) < FEWEST:
            msg = f"{len(texts)} texts are too few to compare groups of; give at least {FEWEST}"
            raise ValueError(msg)
        characters = character_vectors(texts)
        self._clusters = {count: _clusterings(characters, count) for count in CLUSTERS if len(texts) >= 2 * count}

    def agreement(self, vectors: np.ndarray) -> float:
        """Agreement of the vectors' clusters with those of this view.

        Args:
            vectors: ``[N, D]`` of the same texts, of any length.

        Returns:
            Adjusted mutual information, the mean over numbers of clusters and initialisations: 1 for equal groups, 0 for unrelated ones.
        """
        unit = unit_vectors(vectors)
        scores = [
            adjusted_mutual_info_score(one, other)
            for count, of_view in self._clusters.items()
            for one in _clusterings(unit, count)
            for other in of_view
        ]
        return float(np.mean(scores))


def _clusterings(vectors: np.ndarray, count: int) -> list[np.ndarray]:
    """k-means labels ``[N]`` by so many initialisations."""
    distinct = min(count, len(np.unique(vectors, axis=0)))
    with threads_of_passes(vectors.size):
        return [KMeans(distinct, n_init=1, random_state=seed).fit_predict(vectors) for seed in range(_SEEDS)]
