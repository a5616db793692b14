"""Batches of compatible pairs for InfoNCE: no text is by mistake a negative of another pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


class BatchError(ValueError):
    """Pairs that do not fill a batch; the message says why and what to do."""


class PairBatches:
    """Rows of pairs for each step; they depend only on the seed, not on the step that a run starts from.

    Pairs are drawn in a random order, a new one in each round. No two pairs of a batch share a group: the second waits for the next batch.
    Pairs left at the end of a round that do not fill a batch come first in the next.

    Args:
        groups: ``[N, 2]``, groups of both sides of each pair, from :func:`.pair_groups.pair_groups`.
        batch_size: Pairs in a batch.
        steps: Number of batches.
        seed: Seed of the order.

    Raises:
        BatchError: If too few pairs fit into one batch.
    """

    def __init__(self, groups: np.ndarray, *, batch_size: int, steps: int, seed: int) -> None:
        self.groups = groups.tolist()
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        most = self._most_together()
        if most < batch_size:
            msg = (
                f"only {most} of the {len(groups)} training pairs fit into a batch of {batch_size}: the others share texts or "
                "near-duplicates; lower contrastive_finetuning.batch_size, augment more texts, or raise false_negatives.near_duplicate"
            )
            raise BatchError(msg)

    def __iter__(self) -> Iterator[list[int]]:
        """The rows of each batch, ``[batch_size]``."""
        rng = np.random.default_rng(self.seed)
        waiting: list[int] = []  # the next one last: what is removed from the end of a list moves nothing
        drawn = 0
        while drawn < self.steps:
            waiting[:0] = rng.permutation(len(self.groups))[::-1].tolist()
            while drawn < self.steps and (batch := self._draw(waiting)):
                drawn += 1
                yield batch

    def _most_together(self) -> int:
        used: set[int] = set()
        count = 0
        for pair in self.groups:
            if used.isdisjoint(pair):
                used.update(pair)
                count += 1
        return count

    def _draw(self, waiting: list[int]) -> list[int]:
        """Remove a batch from the waiting rows; empty if they do not fill one."""
        used: set[int] = set()
        places: list[int] = []
        for place in range(len(waiting) - 1, -1, -1):
            row = waiting[place]
            if used.isdisjoint(self.groups[row]):
                used.update(self.groups[row])
                places.append(place)
                if len(places) == self.batch_size:
                    return [waiting.pop(chosen) for chosen in places]
        return []
