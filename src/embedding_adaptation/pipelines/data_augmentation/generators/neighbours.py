"""Texts of the corpus that are each other's nearest neighbours: positives from the user's own domain, with nothing generated."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from embedding_adaptation.embedder.after_processing import AfterProcessingError
from embedding_adaptation.identity import texts_in_order
from embedding_adaptation.memory import check_memory
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
from embedding_adaptation.vectors.neighbours import SPARE, Search, mutual_neighbours
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    from embedding_adaptation.pipelines.data_augmentation.options import NeighboursOptions
    from embedding_adaptation.texts.stream import TextStream

logger = logging.getLogger(__name__)

# Copies of the vectors at the same time: as they were read and with after-processing; more where its components are computed.
_COPIES, _COPIES_WITH_COMPONENTS = 2, 7


def generate(requests: Iterable[Request], options: NeighboursOptions, context: Context) -> Iterator[Candidate]:
    """Pair texts that are among each other's nearest neighbours.

    Similarity is the cosine under one strategy. Under a consensus of several templates it is the mean of their cosines: neighbours under a
    single template may be due to chance, those under several rarely are. Up to ``exact_up_to`` texts, time grows with the square of their
    number; beyond that, most of the neighbours are found in far less time. Memory grows with the number of texts, and is checked before
    they are read by the model.

    Args:
        requests: Texts; all are read before the first pair is yielded.
        options: The strategy and limits.
        context: The embedder and the seed.

    Yields:
        Pairs, the most similar first.

    Raises:
        GenerationError: If there are too few texts for the options, or for the strategy's after-processing.
        OutOfMemoryError: If there are too many texts for the memory of this machine.
    """
    texts = {request.source_text: request for request in requests if request.turn == 0}
    rows = list(texts.values())
    if len(rows) < options.neighbours + 2:
        msg = (
            f"generator 'neighbours' needs at least {options.neighbours + 2} texts (neighbours + 2), but there are {len(rows)}; give a "
            "larger corpus, or use another generator"
        )
        raise GenerationError(msg)
    search = Search(options.search, options.exact_up_to)
    check_memory(
        needed_bytes(len(rows), options, context),
        f"the neighbours of {len(rows):,} texts",
        "lower data_augmentation.cleaning.max_texts, name a strategy with fewer templates in "
        "data_augmentation.generators.neighbours.strategy, or use a machine with more memory",
    )
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
        search=search,
    )
    logger.info("neighbours: %d pairs from %d texts", len(pairs), len(rows))
    for one, other, similarity in pairs:
        first, second = rows[one], rows[other]
        key = text_key(first.source_text, second.source_text)
        if options.weight < 1.0 and digest_fraction(context.seed, key) >= options.weight:
            continue
        yield Candidate(key, first.source_id, first.source_text, second.source_text, other_id=second.source_id, own_score=similarity)


def needed_bytes(texts: int, options: NeighboursOptions, context: Context) -> int:
    """Bytes for the vectors of so many texts, as read and as processed, and for the search of their neighbours."""
    chosen = context.embedder_options.every_strategy[options.strategy]
    width = context.embedder().dimension(context.embedder_options.strategy(options.strategy, chosen))
    after = chosen.after
    copies = _COPIES_WITH_COMPONENTS if after.distil or after.whiten or after.remove_components or after.dimensions else _COPIES
    search = Search(options.search, options.exact_up_to).needed_bytes(texts, width, options.neighbours + SPARE)
    return max(copies * 4 * texts * width, 4 * texts * width + search)


def strategy_vectors(texts: Sequence[str], options: NeighboursOptions, context: Context) -> np.ndarray:
    """Unit vectors ``[N, D]`` of the texts, with after-processing fitted on these very texts."""
    chosen = context.embedder_options.every_strategy[options.strategy]
    strategy = context.embedder_options.strategy(options.strategy, chosen)
    vectors = read_once(context.embedder(), texts, [strategy], context.memory, progress=context.progress)[options.strategy]
    targets = None
    if chosen.after.distil:
        targets = teacher_targets(context.embedder(), texts, context.embedder_options, memory=context.memory, progress=context.progress)
    processed = processed_vectors(vectors, chosen, context.embedder_options, targets=targets)
    return unit_vectors(processed, out=processed)


def _identity(options: NeighboursOptions, corpus: TextStream, context: Context) -> list[Any]:
    used = context.embedder_options
    return [
        context.base_model.card.sha256,
        used.max_length,
        options.weight,
        used.definition(options.strategy),
        texts_in_order(text for _, text in corpus.rows()),
        *_of_search(options, corpus),
    ]


def _of_search(options: NeighboursOptions, corpus: TextStream) -> list[Any]:
    """Nothing where the search is exact, as it always was."""
    texts = len({text for _, text in corpus.rows()}) if options.search == "auto" else 0
    return [] if Search(options.search, options.exact_up_to).is_exact(texts) else ["approximate"]


def _provenance(options: NeighboursOptions, context: Context) -> tuple[str, str]:  # noqa: ARG001  interface of all generators
    return context.base_model.card.source, context.base_model.card.sha256


GENERATOR = Generator(generate, whole_corpus=True, identity=_identity, provenance=_provenance, format=2)
