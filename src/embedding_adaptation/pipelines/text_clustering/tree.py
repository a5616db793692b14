"""A tree of similar clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import linkage

if TYPE_CHECKING:
    from collections.abc import Sequence


def cluster_linkage(centres: np.ndarray) -> np.ndarray:
    """Agglomerative clustering of centres with average linkage by cosine distance.

    Args:
        centres: Unit vectors ``[K, D]``.

    Returns:
        scipy's linkage matrix ``[K - 1, 4]``; empty for fewer than two centres.
    """
    if len(centres) < 2:  # noqa: PLR2004
        return np.empty((0, 4))
    links: np.ndarray = linkage(centres.astype(np.float64), "average", metric="cosine", optimal_ordering=True)
    return links


def merge_table(links: np.ndarray, names: Sequence[str], sizes: Sequence[int]) -> pd.DataFrame:
    """List the merges of the tree, from its leaves to its root.

    Args:
        links: A linkage matrix ``[K - 1, 4]``.
        names: Names of the clusters.
        sizes: Their numbers of texts.

    Returns:
        One row per merge: ``node`` (clusters are 0 to K - 1, merges continue from K), ``left``, ``right``, ``distance`` (mean cosine
        distance of their centres), ``clusters`` and ``texts`` below it, ``left_name`` and ``right_name``.
    """
    count = len(names)
    texts = list(sizes)
    rows = []
    for number, (left, right, distance, clusters) in enumerate(links):
        sides = int(left), int(right)
        texts.append(texts[sides[0]] + texts[sides[1]])
        side_names = [names[side] if side < count else f"merge {side}" for side in sides]
        rows.append((count + number, *sides, round(float(distance), 6), int(clusters), texts[-1], *side_names))
    return pd.DataFrame(rows, columns=["node", "left", "right", "distance", "clusters", "texts", "left_name", "right_name"])
