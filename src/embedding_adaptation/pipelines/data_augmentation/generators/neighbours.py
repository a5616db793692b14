"""Texts of the corpus that are each other's nearest neighbours: positives from the user's own domain, with nothing generated."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from embedding_adaptation.embedder.after_processing import AfterProcessingError
from embedding_adaptation.identity import texts_in_order
from embedding_adaptation.pipelines.data_augmentation.generators.request import (
    Candidate,
    Context,
    GenerationError,
    Generator,
    Request,
    digest_fraction,
    text_key,
)
from embedding_adaptation.runtime import processed_vectors, read_once, teacher_targets
from embedding_adaptation.vectors.neighbours import mutual_neighbours
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    from embedding_adaptation.pipelines.data_augmentation.options import NeighboursOptions
    from embedding_adaptation.texts.stream import TextStream

logger = logging.getLogger(__name__)


def generate(requests: Iterable[Request], options: NeighboursOptions, context: Context) -> Iterator[Candidate]:
    """Pair texts that are among each other's nearest neighbours.

    Similarity is the cosine under one strategy. Under a consensus of several templates it is the mean of their cosines: neighbours under a
    single template may be due to chance, those under several rarely are. Time grows with the square of the number of texts, memory
    linearly.

    Args:
        requests: Texts; all are read before the first pair is yielded.
        options: The strategy and limits.
        context: The embedder and the seed.

    Yields:
        Pairs, the most similar first.

    Raises:
        GenerationError: If there are too few texts for the options, or for the strategy's after-processing.
    """
    texts = {request.source_text: request for request in requests if request.turn == 0}
    rows = list(texts.values())
    if len(rows) < options.neighbours + 2:
        msg = (
            f"generator 'neighbours' needs at least {options.neighbours + 2} texts (neighbours + 2), but there are {len(rows)}; give a "
            "larger corpus, or use another generator"
        )
        raise GenerationError(msg)
    try:
        vectors = strategy_vectors([row.source_text for row in rows], options, context)
    except AfterProcessingError as error:
        msg = f"generator 'neighbours' cannot use strategy {options.strategy!r}: {error}"
        raise GenerationError(msg) from error
    pairs = mutual_neighbours(
        vectors,
        [row.source_text for row in rows],
        neighbours=options.neighbours,
        min_similarity=options.min_similarity,
        near_duplicate=options.near_duplicate,
        max_pairs_per_text=options.max_pairs_per_text,
    )
    logger.info("neighbours: %d pairs from %d texts", len(pairs), len(rows))
    for one, other, similarity in pairs:
        first, second = rows[one], rows[other]
        key = text_key(first.source_text, second.source_text)
        if options.weight < 1.0 and digest_fraction(context.seed, key) >= options.weight:
            continue
        yield Candidate(key, first.source_id, first.source_text, second.source_text, other_id=second.source_id, own_score=similarity)


def strategy_vectors(texts: Sequence[str], options: NeighboursOptions, context: Context) -> np.ndarray:
    """Unit vectors ``[N, D]`` of the texts, with after-processing fitted on these very texts."""
    chosen = context.embedder_options.every_strategy[options.strategy]
    strategy = context.embedder_options.strategy(options.strategy, chosen)
    vectors = read_once(context.embedder(), texts, [strategy], context.memory, progress=context.progress)[options.strategy]
    targets = None
    if chosen.after.distil:
        targets = teacher_targets(context.embedder(), texts, context.embedder_options, memory=context.memory, progress=context.progress)
    return unit_vectors(processed_vectors(vectors, chosen, context.embedder_options, targets=targets))


def _identity(options: NeighboursOptions, corpus: TextStream, context: Context) -> list[Any]:
    used = context.embedder_options
    return [
        context.base_model.card.sha256,
        used.max_length,
        options.weight,
        used.definition(options.strategy),
        texts_in_order(text for _, text in corpus.rows()),
    ]


def _provenance(options: NeighboursOptions, context: Context) -> tuple[str, str]:  # noqa: ARG001  interface of all generators
    return context.base_model.card.source, context.base_model.card.sha256


GENERATOR = Generator(generate, whole_corpus=True, identity=_identity, provenance=_provenance, format=2)
