"""Nearest neighbours of vectors, exact and in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rapidfuzz.distance import Indel

if TYPE_CHECKING:
    from collections.abc import Sequence

# Similarities computed at once: 64 MB.
_SCORES_AT_ONCE = 1 << 24
# Neighbours looked at beyond those wanted, in case some are near-duplicates.
_SPARE = 5


def nearest_neighbours(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other rows of each row by cosine.

    Args:
        vectors: ``[N, D]`` of unit length.
        count: How many, below ``N``.

    Returns:
        Their numbers, int64 ``[N, count]``, and their cosine similarities in the vectors' type, the most similar first; of equals the one
        with the lower number.
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
    """Columns of each row's largest scores ``[n, count]``, the largest first, and of equals the one with the lower number."""
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
    """Pairs of rows that are among each other's nearest, the most similar first.

    Args:
        vectors: ``[N, D]`` of unit length.
        texts: The texts they belong to: a near-duplicate takes no place among the nearest.
        neighbours: How many nearest neighbours of a row are considered.
        min_similarity: Lowest cosine similarity of a pair.
        near_duplicate: Edit similarity (Indel, 0 to 1) above which two texts are near-duplicates.
        max_pairs_per_text: Largest number of pairs a row takes part in.

    Returns:
        Row, other row (the smaller first) and similarity. No text stands in more than ``max_pairs_per_text`` pairs; where there are
        more, the most similar stay.
    """
    count = len(vectors)
    rows, similarities = nearest_neighbours(vectors, min(neighbours + _SPARE, count - 1))
    cleaned = [" ".join(text.casefold().split()) for text in texts]
    nearest: list[dict[int, float]] = []
    for row, columns in enumerate(rows.tolist()):
        found: dict[int, float] = {}
        for other, similarity in zip(columns, similarities[row].tolist(), strict=True):
            if len(found) == neighbours or similarity < min_similarity:
                break
            if Indel.normalized_similarity(cleaned[row], cleaned[other]) <= near_duplicate:
                found[other] = similarity
        nearest.append(found)
    pairs = [(one, other, s) for one, found in enumerate(nearest) for other, s in found.items() if one < other and one in nearest[other]]
    pairs.sort(key=lambda pair: (-pair[2], pair[0], pair[1]))
    used = np.zeros(count, np.int64)
    kept = []
    for one, other, similarity in pairs:
        if max(used[one], used[other]) < max_pairs_per_text:
            used[one] += 1
            used[other] += 1
            kept.append((one, other, similarity))
    return kept
