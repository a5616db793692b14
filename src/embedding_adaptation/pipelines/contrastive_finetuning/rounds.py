"""Mine neighbour pairs again with the embedder in training: an adapted space yields better neighbours, until it collapses."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from embedding_adaptation.vectors.criteria import effective_rank
from embedding_adaptation.vectors.neighbours import mutual_neighbours
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from embedding_adaptation.pipelines.contrastive_finetuning.options import RoundsOptions

logger = logging.getLogger(__name__)


class NeighbourRounds:
    """Mines pairs of mutual neighbours in a corpus, until it is no longer worthwhile.

    Args:
        corpus: ``id`` and ``text``.
        given: The initial pairs; those of other generators stay in every round.
        current: The pairs of the round that ends.
        options: Bounds, caps and guards.
        first_rank: Effective rank of the corpus's vectors before training.
    """

    def __init__(self, corpus: pd.DataFrame, given: pd.DataFrame, current: pd.DataFrame, options: RoundsOptions, first_rank: float) -> None:
        self.corpus = corpus
        self.kept = given[given["generator"] != "neighbours"] if "generator" in given else given.iloc[:0]
        self.options = options
        self.first_rank = first_rank
        self._edges: set[frozenset[str]] = set()
        if "other_id" in current:
            self._edges = {frozenset(ids) for ids in zip(current["source_id"].astype(str), current["other_id"].astype(str), strict=True)}

    def mine(self, vectors: np.ndarray) -> pd.DataFrame | None:
        """Pairs for the next round.

        Args:
            vectors: ``[N, D]`` of the corpus under the present weights.

        Returns:
            Pairs with ``source_id``, ``other_id``, ``source_text``, ``generated_text`` and ``generator``; ``None`` if mining has come to
            its end; the log says why.
        """
        rank = effective_rank(vectors)
        if rank < self.options.min_rank * self.first_rank:
            logger.warning("mining of neighbours ends: the effective rank fell from %.1f to %.1f", self.first_rank, rank)
            return None
        centred = vectors - vectors.mean(axis=0)
        unit = unit_vectors(centred)
        ids, texts = self.corpus["id"].astype(str).tolist(), self.corpus["text"].tolist()
        neighbour_pairs = mutual_neighbours(
            unit,
            texts,
            neighbours=self.options.neighbours,
            min_similarity=self.options.min_similarity,
            near_duplicate=self.options.near_duplicate,
            max_pairs_per_text=self.options.max_pairs_per_text,
        )
        edges = {frozenset((ids[one], ids[other])) for one, other, _ in neighbour_pairs}
        change = len(edges - self._edges) / max(len(edges), 1)
        if change <= self.options.min_change:
            logger.info("mining of neighbours ends: only %.0f %% of %d pairs are new", 100 * change, len(edges))
            return None
        logger.info("mined %d pairs of neighbours, %.0f %% of them new; effective rank %.1f", len(edges), 100 * change, rank)
        mined = pd.DataFrame(
            [(ids[one], ids[other], texts[one], texts[other], "neighbours") for one, other, _ in neighbour_pairs],
            columns=["source_id", "other_id", "source_text", "generated_text", "generator"],
        )
        columns = [name for name in mined if name in self.kept]
        return pd.concat([self.kept[columns], mined], ignore_index=True) if len(self.kept) else mined
