"""The same texts under base and adapted weights: two maps, and whose neighbours changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import orthogonal_procrustes

from embedding_adaptation.vectors.layout import umap_coordinates
from embedding_adaptation.vectors.neighbours import nearest_neighbours

if TYPE_CHECKING:
    from embedding_adaptation.pipelines.adaptation_page.options import PageOptions

FEWEST = 6  # points: fewer have no neighbourhoods to draw


def aligned_maps(base: np.ndarray, adapted: np.ndarray, options: PageOptions) -> tuple[np.ndarray, np.ndarray]:
    """Two maps of the same texts, turned and scaled so that points lie as near to their place in the other as a rigid map allows.

    Args:
        base: Unit vectors ``[n, D]``.
        adapted: Unit vectors ``[n, E]`` of the same texts.
        options: UMAP's options.

    Returns:
        Coordinates ``[n, 2]`` of both, centred.

    References:
        Schönemann, A generalized solution of the orthogonal Procrustes problem (Psychometrika 31, 1966).
    """
    one, other = (
        _centred(umap_coordinates(vectors, 2, neighbours=options.neighbours, min_distance=options.min_distance, seed=options.seed))
        for vectors in (base, adapted)
    )
    turn, _ = orthogonal_procrustes(other, one)
    turned = other @ turn
    spread, own = (float(np.linalg.norm(points)) for points in (one, turned))
    return one, turned * (spread / own if own else 1.0)


def most_moved(base: np.ndarray, adapted: np.ndarray, options: PageOptions) -> list[tuple[int, list[int], list[int]]]:
    """The texts whose nearest texts have changed most.

    Args:
        base: Unit vectors ``[n, D]``.
        adapted: Unit vectors ``[n, E]`` of the same texts.
        options: How many texts, and how many of their neighbours.

    Returns:
        Row, nearest rows under base weights, and under adapted ones. Ties go to those whose new neighbours are nearest. None where nothing
        has changed.
    """
    count = min(options.nearest, len(base) - 1)
    if count < 1 or not options.moved_texts:
        return []
    before, _ = nearest_neighbours(base, count)  # [n, K]
    after, similarity = nearest_neighbours(adapted, count)
    shared = np.array([len(set(one) & set(other)) for one, other in zip(before.tolist(), after.tolist(), strict=True)])
    order = np.lexsort((-similarity.mean(axis=1), shared))
    chosen = [row for row in order.tolist() if shared[row] < count][: options.moved_texts]
    return [(row, before[row].tolist(), after[row].tolist()) for row in chosen]


def _centred(points: np.ndarray) -> np.ndarray:
    return (points - points.mean(axis=0)).astype(np.float64)
