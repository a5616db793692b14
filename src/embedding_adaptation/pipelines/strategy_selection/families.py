"""Rank families of templates without labels."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from embedding_adaptation.pipelines.strategy_selection.selection import draw_texts, processed, unprocessed_vectors
from embedding_adaptation.runtime import load_embedder
from embedding_adaptation.vectors.criteria import outside_agreement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions

logger = logging.getLogger(__name__)

COLUMNS = ("family", "strategy", "templates", "layers", "after", "agreement", "behind", "standard_error")
_ERRORS = 2.0  # differences of fewer standard errors may be due to the draw of the texts


def rank_families(
    weights: DecoderWeights, texts: Sequence[str], options: SelectionOptions, embedder_options: EmbedderOptions
) -> pd.DataFrame:
    """Rank the families; see :func:`~embedding_adaptation.pipelines.strategy_selection.nodes.rank_families`."""
    if not options.families:
        return pd.DataFrame(columns=list(COLUMNS))
    drawn = draw_texts(texts, options.max_texts, options.seed)
    table = family_table(load_embedder(weights, embedder_options), drawn, options, embedder_options)
    best, others = table.iloc[0], table[table["family"] != table["family"].iloc[0]]
    logger.info(
        "best family of templates for these texts: %s (%s, layers %s, after %s); "
        "it shares %.1f of a text's ten neighbours with the references",
        *(best["family"], best["templates"], best["layers"], best["after"], 10 * best["agreement"]),
    )
    if len(others) and others["behind"].iloc[0] <= _ERRORS * others["standard_error"].iloc[0]:
        logger.info(
            "family %s is no worse beyond chance (behind by %.3f, standard error %.3f)",
            *(others["family"].iloc[0], others["behind"].iloc[0], others["standard_error"].iloc[0]),
        )
    return table


def family_table(embedder: Embedder, texts: Sequence[str], options: SelectionOptions, embedder_options: EmbedderOptions) -> pd.DataFrame:
    """Rank the families' strategies by their agreement with the references, from one call of the embedder.

    Returns:
        One row per strategy of a family, the best first: ``family``, ``strategy``, ``templates``, ``layers``, ``after``; ``agreement`` (see
        :func:`~embedding_adaptation.vectors.criteria.outside_agreement`), how far it is ``behind`` the best, and the ``standard_error`` of
        that difference over the texts.
    """
    candidates = {name: strategy for strategies in options.candidates.values() for name, strategy in strategies.items()}
    references = options.references
    vectors = unprocessed_vectors(embedder, texts, references | candidates, embedder_options)
    count = len(texts)
    agreements = outside_agreement(
        ((name, processed(vectors[name], strategy, embedder_options, fitted_on=count)) for name, strategy in candidates.items()),
        (processed(vectors[name], strategy, embedder_options, fitted_on=count) for name, strategy in references.items()),
    )
    best = max(agreements, key=lambda name: agreements[name].mean())
    family_of = {name: family for family, strategies in options.candidates.items() for name in strategies}
    rows = []
    for name, strategy in candidates.items():
        behind = agreements[best] - agreements[name]  # [N]
        rows.append(
            {
                "family": family_of[name],
                "strategy": name,
                "templates": strategy.title,
                "layers": " + ".join(map(str, strategy.layers)),
                "after": strategy.after.title or "none",
                "agreement": float(agreements[name].mean()),
                "behind": float(behind.mean()),
                "standard_error": float(behind.std(ddof=1) / np.sqrt(len(behind))),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("agreement", ascending=False, kind="stable").reset_index(drop=True)
