"""Rank families of templates without labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from embedding_adaptation.pipelines.strategy_selection.selection import draw_texts, unprocessed_vectors
from embedding_adaptation.runtime import load_embedder, processed_vectors
from embedding_adaptation.vectors.criteria import outside_agreement
from embedding_adaptation.vectors.words import tfidf_vectors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions, StrategyOptions
    from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions

logger = logging.getLogger(__name__)

COLUMNS = (
    "family", "strategy", "templates", "layers", "after", "word_agreement", "template_agreement", "behind", "standard_error",
)  # fmt: skip
_WORD_DIMENSIONS = 128
_ERRORS = 2.0  # differences of fewer standard errors may be due to the draw of the texts


@dataclass(frozen=True)
class FamilyVectors:
    """Vectors of texts under the strategies of all families and under the references, ``[N, D]`` each, by name."""

    candidates: dict[str, np.ndarray]
    references: dict[str, np.ndarray]


def rank_families(
    weights: DecoderWeights, texts: Sequence[str], options: SelectionOptions, embedder_options: EmbedderOptions
) -> pd.DataFrame:
    """Rank the families; see :func:`~embedding_adaptation.pipelines.strategy_selection.nodes.rank_families`."""
    if not options.families:
        return pd.DataFrame(columns=list(COLUMNS))
    drawn = draw_texts(texts, options.max_texts, options.seed)
    vectors = family_vectors(load_embedder(weights, embedder_options), drawn, options, embedder_options)
    table = family_table(vectors, drawn, options)
    best, others = table.iloc[0], table[table["family"] != table["family"].iloc[0]]
    logger.info(
        "best family of templates for these texts: %s (%s; layers %s; after-processing: %s)",
        *(best["family"], best["templates"], best["layers"], best["after"]),
    )
    if len(others):
        second = others.iloc[0]
        logger.info(
            "the next best family is %s, behind by %.3f (standard error %.3f)%s",
            *(second["family"], second["behind"], second["standard_error"]),
            "" if second["behind"] > _ERRORS * second["standard_error"] else ": no difference is shown",
        )
    return table


def family_vectors(embedder: Embedder, texts: Sequence[str], options: SelectionOptions, embedder_options: EmbedderOptions) -> FamilyVectors:
    """Embed the texts for :func:`family_table`, in one call of the embedder; after-processing is fitted on the texts themselves."""
    candidates = {name: strategy for strategies in options.candidates.values() for name, strategy in strategies.items()}
    references = options.references
    vectors = unprocessed_vectors(embedder, texts, references | candidates, embedder_options)

    def finished(strategies: Mapping[str, StrategyOptions]) -> dict[str, np.ndarray]:
        return {name: processed_vectors(vectors[name], strategy, embedder_options) for name, strategy in strategies.items()}

    return FamilyVectors(finished(candidates), finished(references))


def family_table(vectors: FamilyVectors, texts: Sequence[str], options: SelectionOptions) -> pd.DataFrame:
    """Rank the families' strategies by how far a text's neighbours are those that outsiders see.

    Outsiders have no template in common with any family, or no template at all: otherwise a family would praise itself.

    Args:
        vectors: The result of :func:`family_vectors`.
        texts: The texts.
        options: The families, and what judges them.

    Returns:
        One row per strategy of a family, the best first: ``family``, ``strategy``, ``templates``, ``layers``, ``after``; the shares of ten
        neighbours that are also neighbours by the words that texts share (``word_agreement``) and by the mean similarity of the reference
        templates (``template_agreement``, NaN without references), see :func:`~embedding_adaptation.vectors.criteria.outside_agreement`;
        by the one of these that judges, how far it is ``behind`` the best, and the ``standard_error`` of that difference over the texts.
    """
    by = {"words": outside_agreement(vectors.candidates, [tfidf_vectors(texts, _WORD_DIMENSIONS, options.seed)])}
    if vectors.references:
        by["templates"] = outside_agreement(vectors.candidates, vectors.references.values())
    judged = by[options.family_judge]
    best = max(judged, key=lambda name: judged[name].mean())
    rows = []
    for family, strategies in options.candidates.items():
        for name, strategy in strategies.items():
            behind = judged[best] - judged[name]  # [N]
            rows.append(
                {
                    "family": family,
                    "strategy": name,
                    "templates": strategy.title,
                    "layers": " + ".join(map(str, strategy.layers)),
                    "after": strategy.after.title or "none",
                    "word_agreement": float(by["words"][name].mean()),
                    "template_agreement": float(by["templates"][name].mean()) if vectors.references else np.nan,
                    "behind": float(behind.mean()),
                    "standard_error": float(behind.std(ddof=1) / np.sqrt(len(behind))),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("behind", kind="stable").reset_index(drop=True)
