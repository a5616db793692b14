"""Nodes of contrastive fine-tuning: pairs -> training and held-out pairs -> adapter and curve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from embedding_adaptation.datasets.adapter import TrainedAdapter
from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.figures import PlotlyFigure
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.repeatable import repeatable
from embedding_adaptation.texts.stream import TextStream

_MIN_SOURCES = 4
_SPARE = 5  # texts drawn for each that is judged by


class PairsError(ValueError):
    """The pairs cannot be split; the message says why and what to do."""


def split_pairs(positive_pairs: pd.DataFrame, options: FinetuningOptions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold out some source texts with all their pairs.

    Args:
        positive_pairs: Accepted pairs with ``source_id`` and, where both sides are texts of the corpus, ``other_id``.
        options: Fine-tuning options.

    Returns:
        Training pairs and validation pairs. No corpus text is in both: pairs with one text on each side are left out.

    Raises:
        PairsError: If the pairs come from fewer than four source texts, and the loss needs pairs.
    """
    sources = positive_pairs["source_id"].drop_duplicates()
    if len(sources) < _MIN_SOURCES and options.loss == "consensus":  # which learns from the corpus
        return positive_pairs, positive_pairs.iloc[:0]
    if len(sources) < _MIN_SOURCES:
        msg = (
            f"the positive pairs come from {len(sources)} source texts; at least {_MIN_SOURCES} are needed to train and hold "
            "some out; use a larger corpus, or relax data_augmentation.filters"
        )
        raise PairsError(msg)
    count = min(max(2, round(options.validation_share * len(sources))), len(sources) - 2)
    held_out = positive_pairs["source_id"].isin(sources.sample(count, random_state=options.seed))
    seen = held_out
    if "other_id" in positive_pairs:
        other = positive_pairs["other_id"].where(positive_pairs["other_id"] != "", positive_pairs["source_id"])
        texts = set(positive_pairs.loc[held_out, "source_id"]) | set(other[held_out])
        seen = positive_pairs["source_id"].isin(texts) | other.isin(texts)
    return positive_pairs[~seen].reset_index(drop=True), positive_pairs[held_out].reset_index(drop=True)


@repeatable
def train_adapter(
    base_model: DecoderWeights,
    train_pairs: pd.DataFrame,
    validation_pairs: pd.DataFrame,
    clean_corpus: TextStream,
    corpus_report: dict[str, Any],
    training_checkpoints: Path,
    embedding_store: EmbeddingStore,
    options: FinetuningOptions,
    embedder_options: EmbedderOptions,
) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train a LoRA adapter on the pairs, or resume an interrupted run with the same inputs.

    Args:
        base_model: The model to adapt.
        train_pairs: Pairs to learn from.
        validation_pairs: Held-out pairs.
        clean_corpus: Unlabelled texts, for evaluation and mining.
        corpus_report: The report on that corpus; empty if there is none.
        training_checkpoints: Directory of checkpoints.
        embedding_store: Vectors of texts that the teacher is asked about.
        options: Fine-tuning options.
        embedder_options: Template, pooling, device and number format.

    Returns:
        The adapter, which names the corpus its pairs come from, and the training history, one row per step.
    """
    from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
    from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
    from embedding_adaptation.pipelines.contrastive_finetuning.report import corpus_of

    most = max(
        options.stopping.texts * _SPARE,
        options.consensus.texts if options.loss == "consensus" else 0,
        options.rounds.texts if options.rounds else 0,
        options.hard_negatives.texts if options.hard_negatives else 0,
    )
    corpus = clean_corpus.sample(most, options.seed)
    job = TrainingJob(base_model, train_pairs, validation_pairs, options, embedder_options, corpus, training_checkpoints, embedding_store)
    adapter, history = train(job)
    return replace(adapter, corpus=corpus_of(train_pairs, corpus_report)), history


@repeatable
def plot_training_curve(training_history: pd.DataFrame) -> PlotlyFigure:
    """Draw training and held-out loss over the steps."""
    from embedding_adaptation.pipelines.contrastive_finetuning.figures import training_curve

    return training_curve(training_history)
