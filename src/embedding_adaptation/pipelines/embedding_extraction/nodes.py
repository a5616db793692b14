"""Node of embedding extraction: texts -> vectors under every strategy."""

from __future__ import annotations

import pandas as pd

from embedding_adaptation.datasets.embeddings import Embeddings
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions


def extract_embeddings(model: DecoderWeights, texts: pd.DataFrame, embedder_options: EmbedderOptions) -> Embeddings:
    """Embed texts under the strategies that use these weights.

    Args:
        model: Base weights, or base weights with an adapter: which of the two decides which strategies are used.
        texts: Texts with ``id`` and ``text``.
        embedder_options: Templates and strategies.

    Returns:
        Vectors by strategy, rows in the order of ``texts``.
    """
    from embedding_adaptation.runtime import load_embedder, strategies_of

    strategies = strategies_of("base" if model.adapter is None else "adapted", embedder_options)
    embedder = load_embedder(model, embedder_options)
    return Embeddings(tuple(texts["id"]), embedder.encode(texts["text"].tolist(), strategies))
