"""Batches of texts for the consensus loss: texts, their nearest neighbours under the teacher, and their partners in pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class TextBatches:
    """Texts of each step; they depend only on the seed, not on the step that a run starts from.

    Texts are drawn in a random order, a new one in each round. With each come its nearest neighbours and its partners, so that every batch
    has something to agree on: of random texts, few are alike.

    Args:
        drawn: The texts that may be drawn.
        neighbours: ``[N, K]``, the nearest neighbours of every text.
        partners: For each text that has any, those it belongs to.
        batch_size: Texts in a batch, at most as many as may be drawn.
        steps: Number of batches.
        seed: Seed of the order.
    """

    def __init__(
        self,
        drawn: Sequence[int],
        neighbours: np.ndarray,
        partners: Mapping[int, Sequence[int]],
        *,
        batch_size: int,
        steps: int,
        seed: int,
    ) -> None:
        self.drawn = list(drawn)
        self.neighbours = neighbours.tolist()
        self.partners = partners
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed

    def __iter__(self) -> Iterator[list[int]]:
        """The texts of each batch, ``[batch_size]``, each once."""
        rng = np.random.default_rng(self.seed)
        usable = set(self.drawn)
        waiting: list[int] = []
        for _ in range(self.steps):
            batch: dict[int, None] = {}
            while len(batch) < self.batch_size:
                if not waiting:
                    waiting = rng.permutation(self.drawn).tolist()
                text = waiting.pop()
                for one in (text, *self.partners.get(text, ()), *self.neighbours[text]):
                    if one in usable and len(batch) < self.batch_size:
                        batch.setdefault(one)
            yield list(batch)
