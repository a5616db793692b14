"""Count and check the texts to be clustered, in one pass over the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedding_adaptation.identity import SequenceIdentity, TextsIdentity, text_digest
from embedding_adaptation.pipelines.text_clustering.errors import ClusteringError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
    from embedding_adaptation.texts.stream import TextStream

# Minimum mean number of texts per cluster in a resample: with fewer, agreement says little.
FEWEST_PER_CLUSTER = 5
_FEWEST_CANDIDATES = 2


@dataclass(frozen=True)
class Census:
    """A corpus in numbers.

    Attributes:
        texts: Number of texts.
        distinct: Number of distinct texts.
        digest: Digest of all ids and texts, in order.
        identity: Identity of the texts alone, in any order, see :class:`~embedding_adaptation.identity.TextsIdentity`.
    """

    texts: int
    distinct: int
    digest: str
    identity: str


def count_texts(corpus: TextStream) -> Census:
    """Count texts, with eight bytes of memory per text."""
    rows = SequenceIdentity()
    runs: list[np.ndarray] = []
    texts, identity = 0, TextsIdentity()
    for piece in corpus.pieces():
        texts += len(piece)
        identity.update(piece["text"])
        rows.update(part for row in zip(piece["id"], piece["text"], strict=True) for part in row)
        runs.append(np.unique(np.array([text_digest(text, 8) for text in piece["text"]], "S8").view("u8")))
        if sum(map(len, runs)) > 2 * len(runs[0]):
            runs = [np.unique(np.concatenate(runs))]
    distinct = len(np.unique(np.concatenate(runs))) if runs else 0
    return Census(texts, distinct, rows.hexdigest(), identity.hexdigest())


def texts_at(corpus: TextStream, rows: Iterable[int]) -> dict[int, str]:
    """The texts of some rows, by row."""
    sorted_rows = np.unique(np.fromiter(rows, np.int64))
    texts: dict[int, str] = {}
    first = 0
    for piece in corpus.pieces():
        low, high = np.searchsorted(sorted_rows, [first, first + len(piece)])
        if high > low:
            piece_rows = sorted_rows[low:high]
            texts |= dict(zip(piece_rows.tolist(), piece["text"].iloc[piece_rows - first], strict=True))
        first += len(piece)
    return texts


def rows_at(corpus: TextStream, rows: Sequence[int]) -> tuple[list[str], list[str]]:
    """Ids and texts of some rows, in the order given."""
    wanted = set(rows)
    found = {row: both for row, both in enumerate(corpus.rows()) if row in wanted}
    return [found[row][0] for row in rows], [found[row][1] for row in rows]


def check_number(distinct: int, options: TextClusteringOptions, unit: str = "text") -> None:
    """Check that there are enough distinct texts, or vectors, to cluster them according to the options.

    Raises:
        ClusteringError: If there are too few; the message names the option and the remedy.
    """
    if distinct < 2:  # noqa: PLR2004
        msg = f"there is only 1 distinct {unit}, but clustering needs at least 2; give a corpus of different texts"
        if unit != "text":
            msg = f"all {unit}s are equal, so there is nothing to cluster; choose another strategy (text_clustering.strategies)"
        raise ClusteringError(msg)
    if options.method == "hdbscan":
        smallest = smallest_cluster(distinct, options)
        if distinct < 2 * smallest:
            msg = (
                f"{distinct} distinct {unit}s are too few for two clusters of {smallest}; lower text_clustering.hdbscan.min_cluster_size, "
                "give more texts, or set text_clustering.method to kmeans with a number of clusters"
            )
            raise ClusteringError(msg)
    elif options.clusters is not None:
        if options.clusters > distinct:
            msg = (
                f"text_clustering.clusters is {options.clusters}, but there are only {distinct} distinct {unit}s; "
                f"lower it to {distinct} or less, or give more texts"
            )
            raise ClusteringError(msg)
    else:
        candidates = possible_candidates(distinct, options)
        if len(candidates) < _FEWEST_CANDIDATES:
            second = options.stability.candidates[_FEWEST_CANDIDATES - 1]
            needed = int(np.ceil(second * FEWEST_PER_CLUSTER / options.stability.share))
            msg = (
                f"{distinct} distinct {unit}s are too few to choose the number of clusters by stability: {needed} are needed for the "
                "smallest two of text_clustering.stability.candidates; set text_clustering.clusters, or give more texts"
            )
            raise ClusteringError(msg)


def possible_candidates(distinct: int, options: TextClusteringOptions) -> list[int]:
    """The candidate numbers of clusters for which resamples have enough texts."""
    resample = options.stability.share * min(distinct, options.stability.max_texts)
    return [clusters for clusters in options.stability.candidates if clusters * FEWEST_PER_CLUSTER <= resample]


def smallest_cluster(texts: int, options: TextClusteringOptions) -> int:
    """HDBSCAN's smallest cluster: the option's value, or else 1 % of the texts, at least 5."""
    return options.hdbscan.min_cluster_size or max(5, round(min(texts, options.hdbscan.max_texts) / 100))
