"""Nearest neighbours of vectors in bounded memory: exact, or approximate where there are many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from rapidfuzz.distance import Indel

from embedding_adaptation.vectors.approximate import approximate_bytes, approximate_comparisons, approximate_neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence

SearchMethod = Literal["auto", "exact", "approximate"]
# Among more vectors, an exact search takes over a minute on one core: see "Neighbours" in docs/explanation/results.md.
EXACT_UP_TO = 30_000
# Similarities computed at once: 64 MB.
_SCORES_AT_ONCE = 1 << 24
_SCORE_COPIES = 4  # the scores, their negative, the places of the largest, and a margin
# Additional neighbours to search for, in case some are near-duplicates.
SPARE = 5


@dataclass(frozen=True)
class Search:
    """How neighbours are searched.

    Attributes:
        method: ``exact`` compares each vector with all others, in time that grows with the square of their number; ``approximate`` finds
            most of the neighbours (see :mod:`~embedding_adaptation.vectors.approximate`); ``auto`` is exact up to a number of vectors.
        exact_up_to: That number. It does not depend on the machine, so that the same vectors give the same neighbours everywhere.
    """

    method: SearchMethod = "auto"
    exact_up_to: int = EXACT_UP_TO

    def is_exact(self, number: int) -> bool:
        """Whether the neighbours of this many vectors are searched exactly."""
        return self.method == "exact" or (self.method == "auto" and number <= self.exact_up_to)

    def comparisons(self, number: int) -> float:
        """How many comparisons of two vectors a search makes; of an approximate one, whose cells depend on the vectors, an estimate."""
        return float(number) ** 2 if self.is_exact(number) else approximate_comparisons(number)

    def needed_bytes(self, number: int, width: int, count: int) -> int:
        """Bytes that a search takes beside the vectors themselves.

        Args:
            number: Number of vectors.
            width: Their dimensions.
            count: Number of neighbours.
        """
        if self.is_exact(number):
            return number * count * (8 + 4) + _SCORE_COPIES * 4 * max(_SCORES_AT_ONCE, number)
        return approximate_bytes(number, width, count)


def nearest_neighbours(vectors: np.ndarray, count: int, search: Search = Search()) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest other rows of each row by cosine similarity.

    Args:
        vectors: ``[N, D]`` of unit length.
        count: Number of neighbours, less than ``N``.
        search: Whether the search is exact.

    Returns:
        Their indices, int64 ``[N, count]``, and their cosine similarities in the vectors' dtype, most similar first; ties go to the lower
        index.
    """
    if count and not search.is_exact(len(vectors)):
        return approximate_neighbours(vectors, count)
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
    search: Search = Search(),
) -> list[tuple[int, int, float]]:
    """Find pairs of rows that are among each other's nearest neighbours, most similar first.

    Args:
        vectors: ``[N, D]`` of unit length.
        texts: Their texts; near-duplicates do not count as neighbours.
        neighbours: Number of nearest neighbours considered per row.
        min_similarity: Lowest cosine similarity of a pair.
        near_duplicate: Edit similarity (Indel, 0 to 1) above which two texts are near-duplicates.
        max_pairs_per_text: Maximum number of pairs per row; the most similar are kept.
        search: Whether the search for neighbours is exact.

    Returns:
        The two rows, the lower index first, and their similarity.
    """
    count = len(vectors)
    rows, similarities = nearest_neighbours(vectors, min(neighbours + SPARE, count - 1), search)
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
