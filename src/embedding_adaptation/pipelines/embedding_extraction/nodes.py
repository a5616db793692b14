"""Node of embedding extraction: texts -> vectors under every strategy."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.datasets.embeddings import Embeddings
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions, chosen_names
from embedding_adaptation.pipelines.embedding_extraction.options import ExtractionOptions
from embedding_adaptation.repeatable import repeatable
from embedding_adaptation.texts.stream import TextStream


@repeatable
def extract_embeddings(
    model: DecoderWeights,
    texts: pd.DataFrame,
    corpus: TextStream,
    embedding_store: EmbeddingStore,
    options: ExtractionOptions,
    embedder_options: EmbedderOptions,
) -> Embeddings:
    """Embed texts under the strategies that use these weights.

    Args:
        model: Base weights, with or without an adapter; this decides which strategies are used.
        texts: Texts with ``id`` and ``text``.
        corpus: Unlabelled texts, for fitting after-processing.
        embedding_store: Vectors that are known; those of the texts are kept there, so that the same run again reads nothing.
        options: Which strategies to extract.
        embedder_options: Templates and strategies.

    Returns:
        Vectors by strategy, rows in the order of ``texts``, with their fitted after-processing.
    """
    from embedding_adaptation.embedder.embedder import finish_vectors
    from embedding_adaptation.runtime import fitted_strategies, load_embedder, read_once

    weights = "base" if model.adapter is None else "adapted"
    every = embedder_options.every_strategy
    names = chosen_names(options.strategies, every, "embedding_extraction.strategies")
    embedder = load_embedder(model, embedder_options)

    def fitting_texts() -> list[str]:
        return corpus.sample(options.fitting_texts, options.seed)["text"].tolist()

    selected = {name: every[name] for name in names if every[name].weights == weights}
    strategies = fitted_strategies(embedder, selected, embedder_options, fitting_texts, embedding_store)
    plain = [replace(strategy, after=None) for strategy in strategies]
    read = read_once(embedder, texts["text"].tolist(), plain, embedding_store)
    vectors = {strategy.name: finish_vectors(read.pop(strategy.name), strategy) for strategy in strategies}
    return Embeddings(
        tuple(texts["id"]),
        vectors,
        model.fingerprint(),
        {name: embedder_options.identities[name] for name in vectors},
        {strategy.name: strategy.after for strategy in strategies if strategy.after is not None},
    )
