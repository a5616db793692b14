"""Smoothing of the vectors of the texts to be clustered, which describes them as a set."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_adaptation.vectors.smoothing import smoothed
from embedding_adaptation.vectors.store import VectorStore

if TYPE_CHECKING:
    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions

logger = logging.getLogger(__name__)

# Neighbours per text: with fewer texts, neighbours would often belong to another group.
_TEXTS_PER_NEIGHBOUR = 50


@dataclass(frozen=True)
class Smoothing:
    """How vectors are smoothed.

    Attributes:
        neighbours: Number of nearest neighbours; 0 leaves vectors as they are.
        rounds: How often.
        reason: Why vectors are left as they are, although the options ask for smoothing; empty otherwise.
    """

    neighbours: int = 0
    rounds: int = 0
    reason: str = ""

    @classmethod
    def of(cls, texts: int, options: TextClusteringOptions) -> Smoothing:
        """What the options mean for a number of texts."""
        wanted = options.smoothing
        if wanted is None:
            return cls()
        if options.method == "hdbscan":
            return cls(reason="hdbscan decides itself which texts form groups, and smoothing would make groups of any texts")
        if texts > wanted.max_texts:
            return cls(reason=f"{texts:,} texts are more than text_clustering.smoothing.max_texts ({wanted.max_texts:,})")
        neighbours = min(wanted.neighbours, texts // _TEXTS_PER_NEIGHBOUR)
        if not neighbours:
            return cls(reason=f"{texts:,} texts are fewer than {_TEXTS_PER_NEIGHBOUR}")
        return cls(neighbours, wanted.rounds)

    @classmethod
    def recorded(cls, facts: dict[str, Any]) -> Smoothing:
        """The smoothing that a clustering's facts tell of; none if they do not."""
        return cls(facts.get("smoothing_neighbours", 0), facts.get("smoothing_rounds", 0))

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for the clustering and its report."""
        left_out = f"none: {self.reason}" if self.reason else "none"
        title = f"averaged with nearest neighbours ({self.neighbours}, rounds: {self.rounds})" if self.neighbours else left_out
        return {"smoothing": title, "smoothing_neighbours": self.neighbours, "smoothing_rounds": self.rounds}

    def log(self) -> None:
        """Log what is done."""
        if self.neighbours:
            logger.info("each vector is averaged with its %d nearest (rounds: %d) before k-means", self.neighbours, self.rounds)
        elif self.reason:
            logger.info("vectors are not smoothed: %s", self.reason)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Unit vectors ``[n, D]``, smoothed among themselves."""
        return smoothed(vectors, neighbours=self.neighbours, rounds=self.rounds) if self.neighbours else vectors

    def store(self, vectors: VectorStore) -> VectorStore:
        """All vectors, smoothed; they are in memory then."""
        return VectorStore.of(self(vectors.take(np.arange(vectors.rows))), vectors.facts) if self.neighbours else vectors
