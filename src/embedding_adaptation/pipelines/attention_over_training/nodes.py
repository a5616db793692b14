"""Nodes of attention over training: checkpoints -> shares by step -> their relation to quality."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from embedding_adaptation.attention.options import AttentionOptions
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.figures import Figure
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.attention_over_training.options import OverTrainingOptions


def measure_checkpoints(
    base_model: DecoderWeights,
    checkpoints: dict[int, Path],
    texts: pd.DataFrame,
    options: OverTrainingOptions,
    attention_options: AttentionOptions,
    embedder_options: EmbedderOptions,
) -> pd.DataFrame:
    """Measure the last token's attention at every checkpoint, on the same texts.

    Args:
        base_model: The model that was adapted: step 0.
        checkpoints: Adapters by step.
        texts: Texts with ``id`` and ``text``.
        options: Which checkpoints to measure.
        attention_options: Which texts, layers, heads and spans.
        embedder_options: Template, device and number format.

    Returns:
        One row per step, layer and measure, with intervals.
    """
    from embedding_adaptation.attention.over_training import attention_over_training
    from embedding_adaptation.checkpoint_folders import CheckpointError
    from embedding_adaptation.runtime import build_strategy, load_embedder

    missing = [step for step in options.steps if step and step not in checkpoints]
    if missing:
        msg = f"unknown step {missing[0]} in attention_over_training.steps; choose from the checkpoints {', '.join(map(str, checkpoints))}"
        raise CheckpointError(msg)
    return attention_over_training(
        base_model,
        {step: path for step, path in checkpoints.items() if not options.steps or step in options.steps},
        partial(load_embedder, options=embedder_options),
        build_strategy(embedder_options.adapt, embedder_options).templates[0],
        attention_options.draw(texts)["text"].tolist(),
        spans=attention_options.division,
        layers=attention_options.layers,
        heads=attention_options.heads,
        resamples=attention_options.resamples,
        confidence=attention_options.confidence,
        seed=attention_options.seed,
    )


def relate_attention(
    attention_by_step: pd.DataFrame, scores: pd.DataFrame, options: OverTrainingOptions, attention_options: AttentionOptions
) -> pd.DataFrame:
    """Correlate attention with the quality of the checkpoints.

    Args:
        attention_by_step: Measures by step.
        scores: Numbers by step: the training history, or any other table with a column ``step``.
        options: Which column is the quality.
        attention_options: Resamples and confidence of the intervals.

    Returns:
        One row per signal.
    """
    from embedding_adaptation.attention.over_training import relate_to_quality

    return relate_to_quality(
        attention_by_step,
        scores,
        quality=options.quality,
        resamples=attention_options.resamples,
        confidence=attention_options.confidence,
        seed=attention_options.seed,
    )


def plot_over_training(attention_by_step: pd.DataFrame, scores: pd.DataFrame, options: OverTrainingOptions) -> Figure:
    """Draw shares and quality by step."""
    from embedding_adaptation.pipelines.attention_over_training.figures import training_shares

    return training_shares(attention_by_step, scores, options.quality)
