"""Nodes of strategy selection: unlabelled texts -> strategies ranked by criteria that need no labels."""

from __future__ import annotations

import pandas as pd

from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.figures import Figure
from embedding_adaptation.options import EmbedderOptions, chosen_names
from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions
from embedding_adaptation.texts.stream import TextStream


def rank_strategies(
    base_model: DecoderWeights, corpus: TextStream, options: SelectionOptions, embedder_options: EmbedderOptions
) -> pd.DataFrame:
    """Rank strategies of the base model on unlabelled texts.

    Args:
        base_model: The weights.
        corpus: Unlabelled texts.
        options: Strategies, criteria and number of texts.
        embedder_options: Templates, and further strategies.

    Returns:
        One row per strategy, the best first: its settings, each criterion (higher is better), and the combined ``rank``.

    Raises:
        SelectionError: If there are too few texts or strategies, or a criterion is unknown.
    """
    from embedding_adaptation.pipelines.strategy_selection.selection import rank

    every = dict(embedder_options.strategies) | (options.grid.strategies if options.grid else {})
    embedder_options.check_strategies(every)
    # A distilled strategy repeats what its teacher says: its agreement with the others tells nothing about it.
    base = {name: strategy for name, strategy in every.items() if strategy.weights == "base" and not strategy.after.distil}
    names = chosen_names(options.strategies, base, "strategy_selection.strategies")
    return rank(
        base_model,
        corpus.sample(options.max_texts, options.seed)["text"].tolist(),
        {name: base[name] for name in names},
        options,
        embedder_options,
    )


def rank_families(
    base_model: DecoderWeights, corpus: TextStream, options: SelectionOptions, embedder_options: EmbedderOptions
) -> pd.DataFrame:
    """Rank families of templates of the base model on unlabelled texts, judged by what no family has a part in.

    Args:
        base_model: The weights.
        corpus: Unlabelled texts.
        options: Families, references and number of texts.
        embedder_options: Templates.

    Returns:
        One row per strategy of a family, the best first, see :func:`.families.family_table`; no rows if there are no families.

    Raises:
        SelectionError: If there are too few texts.
    """
    from embedding_adaptation.pipelines.strategy_selection import families

    options.check(embedder_options, lambda _: True)
    texts = corpus.sample(options.max_texts, options.seed)["text"].tolist() if options.families else []
    return families.rank_families(base_model, texts, options, embedder_options)


def plot_ranking(strategy_ranking: pd.DataFrame, options: SelectionOptions) -> Figure:
    """Plot the ranks of the best strategies under each criterion."""
    from embedding_adaptation.pipelines.strategy_selection.figures import ranking_map

    return ranking_map(strategy_ranking, options.criteria)
