"""Nodes of data augmentation: corpus -> clean corpus -> candidates -> scores -> accepted and rejected pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from embedding_adaptation.datasets.chat_server import ChatServerKey
from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.figures import Figure
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.data_augmentation.errors import AugmentationError
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions
from embedding_adaptation.repeatable import repeatable, repeatable_unless
from embedding_adaptation.texts.stream import TableStream, TextStream


def _asks_others(*arguments: Any) -> bool:
    """Whether a server rewrites, or models from the Hub translate."""
    generators = next(one for one in arguments if isinstance(one, AugmentationOptions)).generators
    return (generators.rewrite is not None and generators.rewrite.server is not None) or generators.back_translation is not None


@repeatable
def clean_corpus(corpus: TextStream, options: AugmentationOptions, embedder_options: EmbedderOptions) -> tuple[TextStream, dict[str, Any]]:
    """Normalise the corpus and leave out texts that are of no use for training.

    Args:
        corpus: The user's unlabelled texts.
        options: Augmentation options.
        embedder_options: The cluster, if there is one.

    Returns:
        The clean corpus in its original order, and a report of what was left out and why.

    Raises:
        AugmentationError: If fewer than two texts are left.
    """
    from embedding_adaptation.pipelines.data_augmentation.cleaning import clean

    cluster = embedder_options.cluster
    kept, report = clean(corpus, options.cleaning, options.seed, None if cluster is None else cluster.settings)
    return kept, {"corpus": corpus.name, **report}


@repeatable_unless(_asks_others)
def generate_candidates(
    clean_corpus: TextStream,
    base_model: DecoderWeights,
    chat_server: ChatServerKey,
    finished_candidates: Mapping[str, pd.DataFrame],
    embedding_store: EmbeddingStore,
    options: AugmentationOptions,
    embedder_options: EmbedderOptions,
    steps: int,
    batch_size: int,
) -> Iterator[dict[str, pd.DataFrame]]:
    """Generate candidate pairs, shard by shard.

    Args:
        clean_corpus: Texts.
        base_model: The model that rewrites texts and whose vectors determine neighbours.
        chat_server: The key of the server that rewrites texts instead, if any.
        finished_candidates: Shards of earlier runs; candidates for the same text, model and options are not generated again.
        embedding_store: Vectors of texts.
        options: Augmentation options.
        embedder_options: Device, number format, templates and strategies.
        steps: Steps of training, which decide with the next how many rewrites it has use for (``budget``).
        batch_size: Pairs of a step.

    Yields:
        One new shard of candidates at a time.
    """
    from embedding_adaptation.pipelines.data_augmentation.candidates import generate, make_context

    context = make_context(base_model, options, embedder_options, chat_server, embedding_store)
    yield from generate(clean_corpus, finished_candidates, options, context, trained=steps * batch_size)


@repeatable
def score_candidates(
    clean_corpus: TextStream,
    candidate_pairs: Mapping[str, pd.DataFrame],
    finished_scores: Mapping[str, pd.DataFrame],
    base_model: DecoderWeights,
    options: AugmentationOptions,
    embedder_options: EmbedderOptions,
) -> Iterator[dict[str, pd.DataFrame]]:
    """Score the candidates, shard by shard.

    Args:
        clean_corpus: The texts they come from.
        candidate_pairs: All shards of candidates.
        finished_scores: Shards of scores of earlier runs, which are kept.
        base_model: The model whose vectors show whether a pair is more similar than chance.
        options: Augmentation options.
        embedder_options: Device, number format, templates and strategies.

    Yields:
        The scores of one shard at a time.
    """
    from embedding_adaptation.pipelines.data_augmentation.candidates import make_context
    from embedding_adaptation.pipelines.data_augmentation.pair_selection import score_shards

    context = make_context(base_model, options, embedder_options)
    yield from score_shards(clean_corpus, candidate_pairs, finished_scores, options, context)


@repeatable
def select_pairs(
    clean_corpus: TextStream,
    candidate_pairs: Mapping[str, pd.DataFrame],
    pair_scores: Mapping[str, pd.DataFrame],
    base_model: DecoderWeights,
    options: AugmentationOptions,
    embedder_options: EmbedderOptions,
) -> tuple[TableStream, TableStream, dict[str, Any]]:
    """Accept or reject each candidate of these texts and options.

    Args:
        clean_corpus: The texts they come from.
        candidate_pairs: All shards of candidates, including those of earlier options.
        pair_scores: All shards of scores.
        base_model: The model that generated them.
        options: Augmentation options.
        embedder_options: Templates and strategies.

    Returns:
        Accepted pairs, rejected pairs (both with scores and provenance, rejected ones with the reason), and a report of counts and
        examples by generator, style and reason.

    Raises:
        AugmentationError: If no pair is accepted.
    """
    from embedding_adaptation.pipelines.data_augmentation import pair_selection
    from embedding_adaptation.pipelines.data_augmentation.candidates import make_context

    context = make_context(base_model, options, embedder_options)
    accepted, rejected, report = pair_selection.select_pairs(clean_corpus, candidate_pairs, pair_scores, options, context)
    if not report["accepted"]:
        reasons = {reason: count for reason, count in report["rejected"].items() if count}
        msg = (
            f"none of {report['candidates']} candidates passed the filters (rejected: {reasons}); loosen data_augmentation.filters, or use "
            "other generators or a larger base model"
        )
        raise AugmentationError(msg)
    return accepted, rejected, report


@repeatable
def plot_augmentation(augmentation_report: dict[str, Any]) -> Figure:
    """Plot the accepted and rejected candidates of each generator and style."""
    from embedding_adaptation.pipelines.data_augmentation.figures import augmentation_overview

    return augmentation_overview(augmentation_report)
