"""Nodes of attention analysis: texts -> attention shares of base and adapted -> table and figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.attention_analysis.options import AttentionOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # Kedro evaluates the annotations at start, and matplotlib takes a while to import


def measure_attention(
    model: DecoderWeights, texts: pd.DataFrame, options: AttentionOptions, embedder_options: EmbedderOptions
) -> pd.DataFrame:
    """Measure how the last token's attention divides, under the template that fine-tuning trains.

    Args:
        model: Base weights, or base weights with an adapter.
        texts: Texts with ``id`` and ``text``.
        options: How many texts are looked at.
        embedder_options: Template, device and number format.

    Returns:
        A row for each text and layer (counted from 1): the shares ``sink``, ``prompt`` and ``text``, which add up to one.
    """
    from embedding_adaptation.embedder.attention import SEGMENTS, attention_shares
    from embedding_adaptation.runtime import build_strategy, load_embedder

    drawn = texts.sample(min(options.max_texts, len(texts)), random_state=options.seed)
    template = build_strategy(embedder_options.adapt, embedder_options).templates[0]
    shares = attention_shares(load_embedder(model, embedder_options), template, drawn["text"].tolist())  # [N, L, 3]
    count, layers, _ = shares.shape
    frame = pd.DataFrame(shares.reshape(count * layers, -1), columns=list(SEGMENTS))
    frame.insert(0, "id", np.repeat(drawn["id"].to_numpy(), layers))
    frame.insert(1, "layer", np.tile(np.arange(1, layers + 1), count))
    return frame


def compare_attention(base_attention: pd.DataFrame, adapted_attention: pd.DataFrame) -> pd.DataFrame:
    """Put base and adapted shares side by side, layer by layer.

    Args:
        base_attention: Shares of the base model.
        adapted_attention: Shares of the adapted model, of the same texts.

    Returns:
        A row a layer, and one ``all``: for each segment the mean share of base and adapted over the texts, and the shift between them.
    """
    from embedding_adaptation.embedder.attention import SEGMENTS

    segments = list(SEGMENTS)
    means = {}
    for name, shares in (("base", base_attention), ("adapted", adapted_attention)):
        layers = shares.groupby("layer")[segments].mean()
        layers.index = layers.index.astype(str)
        layers.loc["all"] = shares[segments].mean()
        means[name] = layers
    table = pd.DataFrame({"layer": means["base"].index})
    for segment in segments:
        base, adapted = (means[name][segment].to_numpy(dtype=float) for name in ("base", "adapted"))
        table[f"{segment}_base"] = base.round(4)
        table[f"{segment}_adapted"] = adapted.round(4)
        table[f"{segment}_shift"] = (adapted - base).round(4)
    return table


def plot_attention_shift(base_attention: pd.DataFrame, adapted_attention: pd.DataFrame) -> Figure:
    """Draw the shares over the layers, base and adapted."""
    from embedding_adaptation.figures import attention_shift

    return attention_shift(base_attention, adapted_attention)
