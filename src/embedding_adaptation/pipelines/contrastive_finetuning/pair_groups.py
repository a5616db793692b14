"""Groups of pairs about the same text, whose positives must not be each other's negatives."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.texts.near_duplicates import NearDuplicates

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def pair_groups(pairs: pd.DataFrame, *, same_source: bool, near_duplicate: float | None) -> np.ndarray:
    """The groups of both sides of each pair.

    Texts belong to one group if they are equal except for case and spaces, are near-duplicates, or one was generated from the
    other. Groups are transitive.

    Args:
        pairs: ``source_text`` and ``generated_text``; ``source_id`` and ``other_id`` where there are any.
        same_source: Whether texts generated from the same corpus text belong to one group.
        near_duplicate: Jaccard similarity of character 5-grams above which texts belong to one group; ``None`` skips this.

    Returns:
        ``[N, 2]`` int64, the groups of the source text and of its positive.
    """
    texts = [*pairs["source_text"], *pairs["generated_text"]]
    numbers: dict[str, int] = {}
    of_text = np.array([numbers.setdefault(" ".join(text.casefold().split()), len(numbers)) for text in texts], np.int64)  # [2 N]
    links = [_near_duplicates(list(numbers), near_duplicate)] if near_duplicate is not None else []
    if same_source:
        links.append(_same_source(pairs, of_text))
    groups = _joined(len(numbers), [link for part in links for link in part])
    return groups[of_text].reshape(2, -1).T  # [N, 2]


def conflicts(groups: np.ndarray) -> np.ndarray:
    """Which pairs of a batch share a group, ``[B, B]`` bool; the diagonal is true.

    Args:
        groups: ``[B, 2]``.
    """
    return np.asarray((groups[:, None, :, None] == groups[None, :, None, :]).any(axis=(2, 3)))


def _near_duplicates(texts: Sequence[str], threshold: float) -> list[tuple[int, int]]:
    with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as folder:
        finder = NearDuplicates(Path(folder), threshold)
        for text in texts:
            finder.add(text)
        earlier = finder.find(np.zeros(len(texts), bool))
    return [(row, int(other)) for row, other in enumerate(earlier) if other >= 0]


def _same_source(pairs: pd.DataFrame, of_text: np.ndarray) -> list[tuple[int, int]]:
    """Links between texts with a common source: that of a generated text is its source text, that of a corpus text is itself."""
    if "source_id" not in pairs:
        return []
    own = pairs["source_id"].astype(str)
    others = pairs["other_id"].astype(str) if "other_id" in pairs else own
    of_positive = others.where(others != "", own)
    first: dict[str, int] = {}
    links = []
    for place, source in enumerate([*own, *of_positive]):
        text = int(of_text[place])
        links.append((text, first.setdefault(source, text)))
    return links


def _joined(count: int, links: Sequence[tuple[int, int]]) -> np.ndarray:
    """The connected component of each of ``count`` nodes."""
    one, other = (np.array(side, np.int64) for side in zip(*links, strict=True)) if links else (np.empty(0, np.int64),) * 2
    graph = coo_matrix((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
