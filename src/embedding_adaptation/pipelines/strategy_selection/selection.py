"""Rank strategies without labels."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from embedding_adaptation.runtime import load_embedder, processed_vectors, teacher_targets
from embedding_adaptation.vectors.criteria import CRITERIA, combined_rank, criteria_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions, StrategyOptions
    from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions

_MIN_TEXTS = 20
_MIN_WORDS = 6  # in a text whose halves form a pair


class SelectionError(ValueError):
    """Texts, strategies or criteria that do not allow a ranking; the message says why and what to do."""


def rank(
    weights: DecoderWeights,
    texts: Sequence[str],
    strategies: Mapping[str, StrategyOptions],
    options: SelectionOptions,
    embedder_options: EmbedderOptions,
) -> pd.DataFrame:
    """Rank strategies; see :func:`~embedding_adaptation.pipelines.strategy_selection.nodes.rank_strategies`."""
    unknown = [name for name in options.criteria if name not in CRITERIA]
    if unknown:
        msg = f"unknown criterion {unknown[0]!r} in strategy_selection.criteria; choose from {', '.join(CRITERIA)}"
        raise SelectionError(msg)
    if len(strategies) < 2:  # noqa: PLR2004  a comparison needs two
        msg = f"a ranking needs at least 2 strategies, not {len(strategies)}; set strategy_selection.grid or add embedder.strategies"
        raise SelectionError(msg)
    drawn = draw_texts(texts, options.max_texts, options.seed)
    embedder = load_embedder(weights, embedder_options)
    vectors, pairs = embed_for_ranking(embedder, drawn, strategies, embedder_options)
    table = criteria_table(vectors, pairs, clusters=options.clusters, max_texts=options.max_texts, seed=options.seed)
    table["rank"] = combined_rank(table, options.criteria).to_numpy()
    described = pd.DataFrame(
        {
            "strategy": list(strategies),
            "template": [strategy.title for strategy in strategies.values()],
            "pooling": [strategy.pooling for strategy in strategies.values()],
            "layers": [" + ".join(map(str, strategy.layers)) for strategy in strategies.values()],
            "after": [strategy.after.title or "none" for strategy in strategies.values()],
        }
    )
    return described.merge(table, on="strategy").sort_values("rank", kind="stable").reset_index(drop=True)


def draw_texts(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Draw distinct texts at random.

    Raises:
        SelectionError: If there are too few.
    """
    unique = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(unique) < _MIN_TEXTS:
        msg = f"comparing strategies needs at least {_MIN_TEXTS} distinct texts, but the corpus has {len(unique)}; give more texts"
        raise SelectionError(msg)
    return [unique[index] for index in np.random.default_rng(seed).permutation(len(unique))[:count]]


def halves(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """First and second halves of all texts that are long enough: pairs that belong together without any labels."""
    words = [text.split() for text in texts]
    long_enough = [text for text in words if len(text) >= _MIN_WORDS]
    return [" ".join(text[: len(text) // 2]) for text in long_enough], [" ".join(text[len(text) // 2 :]) for text in long_enough]


def embed_for_ranking(
    embedder: Embedder, texts: Sequence[str], strategies: Mapping[str, StrategyOptions], options: EmbedderOptions
) -> tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]] | None]:
    """Vectors of texts and of their halves under every strategy, from a single call of the embedder.

    Returns:
        For each strategy, vectors ``[N, D]``; and vectors of the halves, ``[M, D]`` each, or ``None`` if too few texts are long enough.
    """
    first, second = halves(texts)
    unprocessed = unprocessed_vectors(embedder, [*texts, *first, *second], strategies, options)
    distils = any(strategy.after.distil for strategy in strategies.values())
    targets = teacher_targets(embedder, texts, options) if distils else None
    vectors, pairs = {}, {}
    for name, strategy in strategies.items():
        matrix = processed_vectors(unprocessed[name], strategy, options, fitted_on=len(texts), targets=targets)  # [N + 2 M, D]
        vectors[name] = matrix[: len(texts)]
        pairs[name] = (matrix[len(texts) : len(texts) + len(first)], matrix[len(texts) + len(first) :])
    return vectors, pairs if len(first) >= _MIN_TEXTS else None


def unprocessed_vectors(
    embedder: Embedder, texts: Sequence[str], strategies: Mapping[str, StrategyOptions], options: EmbedderOptions
) -> dict[str, np.ndarray]:
    """Vectors ``[N, D]`` under every strategy without after-processing; strategies that differ only in that share one array."""
    unfitted = {name: options.strategy("unfitted", strategy) for name, strategy in strategies.items()}
    distinct = list(dict.fromkeys(unfitted.values()))
    numbered = {strategy: dataclasses.replace(strategy, name=str(number)) for number, strategy in enumerate(distinct)}
    encoded = embedder.encode_strategies(texts, list(numbered.values()))
    return {name: encoded[numbered[strategy].name] for name, strategy in unfitted.items()}
