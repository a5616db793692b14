"""A tree of clusters: which are alike."""

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
        scipy's linkage matrix ``[K - 1, 4]``; empty where there are fewer than two.
    """
    if len(centres) < 2:  # noqa: PLR2004
        return np.empty((0, 4))
    links: np.ndarray = linkage(centres.astype(np.float64), "average", metric="cosine", optimal_ordering=True)
    return links


def merge_table(links: np.ndarray, names: Sequence[str], sizes: Sequence[int]) -> pd.DataFrame:
    """The tree from its leaves to its root.

    Args:
        links: A linkage matrix ``[K - 1, 4]``.
        names: Names of the clusters.
        sizes: Their numbers of texts.

    Returns:
        A row a merge: ``node`` (clusters are 0 to K - 1, merges go on from K), ``left``, ``right``, ``distance`` (mean cosine distance of
        their centres), ``clusters`` and ``texts`` below it, and the ``left_name`` and ``right_name`` of clusters.
    """
    count = len(names)
    texts = list(sizes)
    rows = []
    for number, (left, right, distance, clusters) in enumerate(links):
        sides = int(left), int(right)
        texts.append(texts[sides[0]] + texts[sides[1]])
        shown = [names[side] if side < count else f"merge {side}" for side in sides]
        rows.append((count + number, *sides, round(float(distance), 6), int(clusters), texts[-1], *shown))
    return pd.DataFrame(rows, columns=["node", "left", "right", "distance", "clusters", "texts", "left_name", "right_name"])
