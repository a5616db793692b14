"""Rows that are among each other's nearest neighbours."""

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
    looked_at = min(neighbours + _SPARE, count - 1)
    cleaned = [" ".join(text.casefold().split()) for text in texts]
    nearest: list[dict[int, float]] = []
    step = max(1, _SCORES_AT_ONCE // count)
    for start in range(0, count, step):
        scores = vectors[start : start + step] @ vectors.T  # [n, N]
        rows = np.arange(len(scores))
        scores[rows, start + rows] = -np.inf
        places = np.argpartition(-scores, looked_at - 1, axis=1)[:, :looked_at]
        values = np.take_along_axis(scores, places, axis=1)
        # The number breaks ties, so that pairs do not depend on the order in which a partition leaves equals.
        order = np.lexsort((places, -values), axis=1)
        for row in rows.tolist():
            found: dict[int, float] = {}
            for column in order[row].tolist():
                other, similarity = int(places[row, column]), float(values[row, column])
                if len(found) == neighbours or similarity < min_similarity:
                    break
                if Indel.normalized_similarity(cleaned[start + row], cleaned[other]) <= near_duplicate:
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
