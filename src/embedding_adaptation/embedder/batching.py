"""Token-budget batches: texts of like length together, as many as fit, results back in input order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences so that no batch, padded to its longest member, exceeds a number of tokens.

    Args:
        lengths: Token count of each sequence.
        budget: Most tokens in a batch, padding included. A single sequence above it gets a batch of its own.

    Returns:
        Batches of indices into ``lengths``, longest sequences first: whatever memory the run needs, it needs at the start.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # Sorted longest first, so a batch's first member is its width.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
