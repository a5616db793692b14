"""Batches of texts of similar length that fit a token budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences into batches that, padded to their longest member, do not exceed a number of tokens.

    Args:
        lengths: Token count of each sequence.
        budget: Maximum tokens per batch, including padding. A sequence that exceeds it forms a batch of its own.

    Returns:
        Batches of indices into ``lengths``, longest sequences first, so that memory use peaks at the start.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # Sorted longest first, so a batch's first member is its width.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
