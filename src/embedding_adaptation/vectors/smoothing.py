"""Graph smoothing: vectors of a fixed set of texts, each averaged with its nearest neighbours."""

from __future__ import annotations

import numpy as np

from embedding_adaptation.vectors.neighbours import nearest_neighbours
from embedding_adaptation.vectors.unit import unit_vectors

_ROWS_AT_ONCE = 1024


def smoothed(vectors: np.ndarray, *, neighbours: int = 10, rounds: int = 1) -> np.ndarray:
    """Average each vector with its nearest neighbours, itself included, and scale it to unit length again.

    What a text has in common with its neighbours remains, and what is its own is averaged out. So the result describes the texts as a
    set: it is fit for clusters of these very texts, not for comparison with vectors that were not smoothed, nor with scores of such.

    Args:
        vectors: ``[N, D]`` of unit length.
        neighbours: Number of nearest neighbours; all others if there are fewer.
        rounds: How often; each round finds the neighbours anew.

    Returns:
        Unit vectors, float32 ``[N, D]``. Time grows with the square of ``N`` as long as neighbours are searched exactly, memory linearly.

    Raises:
        ValueError: If a number is negative.

    References:
        Graph smoothing of text embeddings: https://arxiv.org/abs/2402.12890
    """
    if neighbours < 0 or rounds < 0:
        msg = f"smoothing needs numbers of neighbours and rounds of at least 0, not {neighbours} and {rounds}; raise them"
        raise ValueError(msg)
    current = np.asarray(vectors, dtype=np.float32)
    count = min(neighbours, len(current) - 1)
    if count < 1:
        return current
    for _ in range(rounds):
        nearest, _ = nearest_neighbours(current, count)  # [N, k]
        total = current.copy()
        for start in range(0, len(current), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            for column in nearest[rows].T:  # [n]
                total[rows] += current[column]
        current = unit_vectors(total, out=total)
    return current
