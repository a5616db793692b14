"""Nearest neighbours of vectors, exact and in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rapidfuzz.distance import Indel

if TYPE_CHECKING:
    from collections.abc import Sequence

# Similarities computed at once: 64 MB.
_SCORES_AT_ONCE = 1 << 24
# Additional neighbours to search for, in case some are near-duplicates.
_SPARE = 5


def nearest_neighbours(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest other rows of each row by cosine similarity.

    Args:
        vectors: ``[N, D]`` of unit length.
        count: Number of neighbours, less than ``N``.

    Returns:
        Their indices, int64 ``[N, count]``, and their cosine similarities in the vectors' dtype, most similar first; ties go to the lower
        index.
    """
    rows = np.empty((len(vectors), count), np.int64)
    similarities = np.empty((len(vectors), count), vectors.dtype)
    step = max(1, _SCORES_AT_ONCE // max(len(vectors), 1))
    for start in range(0, len(vectors), step):
        scores = vectors[start : start + step] @ vectors.T  # [n, N]
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        rows[start : start + step] = near = largest(scores, count)
        similarities[start : start + step] = np.take_along_axis(scores, near, axis=1)
    return rows, similarities


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of each row's largest scores ``[n, count]``, largest first; ties go to the lower index."""
    if not count:
        return np.empty((len(scores), 0), np.int64)
    places = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.lexsort((places, -np.take_along_axis(scores, places, axis=1)), axis=1)
    return np.take_along_axis(places, order, axis=1)


def mutual_neighbours(
    vectors: np.ndarray,
    texts: Sequence[str],
    *,
    neighbours: int,
    min_similarity: float,
    near_duplicate: float,
    max_pairs_per_text: int,
) -> list[tuple[int, int, float]]:
    """Find pairs of rows that are among each other's nearest neighbours, most similar first.

    Args:
        vectors: ``[N, D]`` of unit length.
        texts: Their texts; near-duplicates do not count as neighbours.
        neighbours: Number of nearest neighbours considered per row.
        min_similarity: Lowest cosine similarity of a pair.
        near_duplicate: Edit similarity (Indel, 0 to 1) above which two texts are near-duplicates.
        max_pairs_per_text: Maximum number of pairs per row; the most similar are kept.

    Returns:
        The two rows, the lower index first, and their similarity.
    """
    count = len(vectors)
    rows, similarities = nearest_neighbours(vectors, min(neighbours + _SPARE, count - 1))
    cleaned = [" ".join(text.casefold().split()) for text in texts]
    nearest: list[dict[int, float]] = []
    for row, columns in enumerate(rows.tolist()):
        own: dict[int, float] = {}
        for other, similarity in zip(columns, similarities[row].tolist(), strict=True):
            if len(own) == neighbours or similarity < min_similarity:
                break
            if Indel.normalized_similarity(cleaned[row], cleaned[other]) <= near_duplicate:
                own[other] = similarity
        nearest.append(own)
    pairs = [(one, other, s) for one, own in enumerate(nearest) for other, s in own.items() if one < other and one in nearest[other]]
    pairs.sort(key=lambda pair: (-pair[2], pair[0], pair[1]))
    used = np.zeros(count, np.int64)
    kept = []
    for one, other, similarity in pairs:
        if max(used[one], used[other]) < max_pairs_per_text:
            used[one] += 1
            used[other] += 1
            kept.append((one, other, similarity))
    return kept
