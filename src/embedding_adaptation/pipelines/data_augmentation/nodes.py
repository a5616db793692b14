"""Nodes of data augmentation: corpus -> clean corpus -> candidates -> accepted and rejected pairs."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

import pandas as pd

from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions

_EXAMPLES = 3


class AugmentationError(RuntimeError):
    """A corpus or its rewrites that cannot become pairs; the message says why and what to do."""


def clean_corpus(corpus: pd.DataFrame, options: AugmentationOptions) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Normalise the corpus and leave out what cannot teach anything.

    Args:
        corpus: The user's unlabelled texts with ``id`` and ``text``.
        options: Augmentation options.

    Returns:
        The clean corpus (Unicode in composed form, runs of white space joined, exact duplicates and very short texts left out, a random
        draw where ``max_texts`` asks for one) in the corpus's order, and a report of what went and why.

    Raises:
        AugmentationError: If fewer than two texts are left.
    """
    cleaning = options.cleaning
    texts = corpus["text"].map(lambda text: " ".join(unicodedata.normalize("NFC", text).split()))
    short = texts.map(lambda text: len(text.split())) < cleaning.min_words
    duplicate = texts.str.lower().duplicated() & ~short
    clean = pd.DataFrame({"id": corpus["id"], "text": texts})[~short & ~duplicate]
    drawn = clean
    if cleaning.max_texts is not None and len(clean) > cleaning.max_texts:
        drawn = clean.sample(cleaning.max_texts, random_state=options.generation.seed).sort_index()
    report = {
        "texts": len(corpus),
        "too_short": int(short.sum()),
        "duplicate": int(duplicate.sum()),
        "not_drawn": len(clean) - len(drawn),
        "kept": len(drawn),
    }
    if len(drawn) < 2:  # noqa: PLR2004  a pair needs another pair to be told from
        msg = (
            f"of {len(corpus)} corpus texts {len(drawn)} are left after cleaning ({report['too_short']} shorter than "
            f"{cleaning.min_words} words, {report['duplicate']} duplicates); give a larger corpus or lower cleaning.min_words"
        )
        raise AugmentationError(msg)
    return drawn.reset_index(drop=True), report


def generate_candidates(
    clean_corpus: pd.DataFrame,
    base_model: DecoderWeights,
    finished_candidates: dict[str, pd.DataFrame],
    options: AugmentationOptions,
    embedder_options: EmbedderOptions,
) -> Iterator[dict[str, pd.DataFrame]]:
    """Let the base model rewrite texts, shard by shard.

    Args:
        clean_corpus: Texts with ``id`` and ``text``.
        base_model: The model that rewrites.
        finished_candidates: Shards of earlier runs; those of the same texts, model and options are not made again.
        options: Augmentation options.
        embedder_options: Device and number format.

    Yields:
        One new shard of candidates at a time.
    """
    from embedding_adaptation.pipelines.data_augmentation.generation import generate_shards

    yield from generate_shards(clean_corpus, base_model, finished_candidates.keys(), options.generation, embedder_options)


def filter_candidates(
    candidate_pairs: dict[str, pd.DataFrame],
    clean_corpus: pd.DataFrame,
    base_model: DecoderWeights,
    options: AugmentationOptions,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Judge the candidates of this generation.

    Args:
        candidate_pairs: All shards, of this generation and others.
        clean_corpus: The texts the candidates come from.
        base_model: The model that made them.
        options: Augmentation options.

    Returns:
        Accepted pairs, rejected pairs (both with scores and provenance, the rejected with the reason), and a report of counts and
        examples by style and reason.

    Raises:
        AugmentationError: If no pair is accepted.
    """
    from embedding_adaptation.pipelines.data_augmentation.filters import ACCEPTED, REASONS, judge_candidates
    from embedding_adaptation.pipelines.data_augmentation.generation import generation_fingerprint

    fingerprint = generation_fingerprint(clean_corpus, base_model.card.sha256, options.generation)
    shards = [frame for name, frame in sorted(candidate_pairs.items()) if name.startswith(f"{fingerprint}/")]
    judged = judge_candidates(pd.concat(shards, ignore_index=True), options.filters)
    judged.insert(0, "pair_id", [f"{row.source_id}:{row.style}" for row in judged.itertuples()])
    accepted = judged[judged["verdict"] == ACCEPTED].drop(columns="reason").reset_index(drop=True)
    rejected = judged[judged["verdict"] != ACCEPTED].reset_index(drop=True)
    counts = rejected["reason"].value_counts()
    report = {
        "candidates": len(judged),
        "accepted": len(accepted),
        "rejected": {reason: int(counts.get(reason, 0)) for reason in REASONS},
        "styles": {
            style: {"candidates": len(group), "accepted": int((group["verdict"] == ACCEPTED).sum())}
            for style, group in judged.groupby("style", sort=True)
        },
        "examples": {
            reason or ACCEPTED: group[["style", "source_text", "generated_text"]].head(_EXAMPLES).to_dict("records")
            for reason, group in judged.groupby("reason", sort=True)
        },
    }
    if accepted.empty:
        msg = (
            f"none of {len(judged)} rewrites passed the filters (rejected: {report['rejected']}); "
            "loosen data_augmentation.filters or use a larger base model"
        )
        raise AugmentationError(msg)
    return accepted, rejected, report
