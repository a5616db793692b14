"""Texts of the corpus that are each other's nearest neighbours: positives about the user's own domain, nothing generated."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from embedding_adaptation.pipelines.data_augmentation.generators.request import (
    Candidate,
    Context,
    GenerationError,
    Request,
    digest_fraction,
    text_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embedding_adaptation.pipelines.data_augmentation.options import NeighboursOptions

logger = logging.getLogger(__name__)

# Similarities computed at once: 64 MB.
_SCORES_AT_ONCE = 1 << 24
# Neighbours looked at beyond those wanted, in case some are near-duplicates.
_SPARE = 5


def generate(requests: Iterable[Request], options: NeighboursOptions, context: Context) -> Iterator[Candidate]:
    """Pair texts that are among each other's nearest neighbours.

    Similarities are means over the templates' cosines of (centred) vectors: a text's neighbours under one template may be chance, those
    under several seldom are. Time grows with the square of the number of texts, memory with the number itself.

    Args:
        requests: Texts; all are read before the first pair is known.
        options: Templates, bounds and caps.
        context: The embedder and the seed.

    Yields:
        Pairs, the most similar first.

    Raises:
        GenerationError: If there are too few texts.
    """
    texts = {request.source_text: request for request in requests if request.turn == 0}
    rows = list(texts.values())
    if len(rows) < options.neighbours + 2:
        msg = (
            f"neighbours needs more texts than neighbours + 1 ({options.neighbours + 1}) and got {len(rows)}; give a larger corpus or take "
            "another generator"
        )
        raise GenerationError(msg)
    vectors = ensemble_vectors([row.source_text for row in rows], options, context)
    pairs = mutual_neighbours(vectors, [row.source_text for row in rows], options)
    logger.info("neighbours: %d pairs of %d texts", len(pairs), len(rows))
    for one, other, similarity in pairs:
        first, second = rows[one], rows[other]
        key = text_key(first.source_text, second.source_text)
        if options.weight < 1.0 and digest_fraction(context.seed, key) >= options.weight:
            continue
        yield Candidate(key, first.source_id, first.source_text, second.source_text, other_id=second.source_id, own_score=similarity)


def ensemble_vectors(texts: Sequence[str], options: NeighboursOptions, context: Context) -> np.ndarray:
    """One vector a text whose products are the mean similarities under all templates.

    Returns:
        ``[N, S * D]`` float32, each template's part centred (if asked), of unit length, and divided by the root of the number of templates.
    """
    strategies = [context.embedder_options.strategy(name, strategy) for name, strategy in options.strategies.items()]
    embedded = context.embedder().encode_strategies(texts, strategies, progress=context.progress)
    parts = []
    for name in options.strategies:
        part = embedded.pop(name).astype(np.float32)
        if options.centre:
            part = part - part.mean(axis=0)
        parts.append(part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12))
    return np.concatenate(parts, axis=1) / np.float32(np.sqrt(len(parts)))


def mutual_neighbours(vectors: np.ndarray, texts: Sequence[str], options: NeighboursOptions) -> list[tuple[int, int, float]]:
    """Pairs of rows that are among each other's nearest, the most similar first.

    Args:
        vectors: ``[N, D]`` of unit length.
        texts: Their texts, to keep near-duplicates apart: a near-duplicate takes no place among the nearest.
        options: Bounds and caps.

    Returns:
        Row, other row (the smaller first) and similarity. No text stands in more than ``max_pairs_per_text`` pairs; where there are
        more, the most similar stay.
    """
    from rapidfuzz.distance import Indel

    count = len(vectors)
    looked_at = min(options.neighbours + _SPARE, count - 1)
    cleaned = [" ".join(text.casefold().split()) for text in texts]
    nearest: list[dict[int, float]] = []
    step = max(1, _SCORES_AT_ONCE // count)
    for start in range(0, count, step):
        scores = vectors[start : start + step] @ vectors.T  # [n, N]
        rows = np.arange(len(scores))
        scores[rows, start + rows] = -np.inf
        places = np.argpartition(-scores, looked_at - 1, axis=1)[:, :looked_at]
        values = np.take_along_axis(scores, places, axis=1)
        # The number breaks ties, so that pairs do not depend on the order in which a partition leaves equals.
        order = np.lexsort((places, -values), axis=1)
        for row in rows.tolist():
            found: dict[int, float] = {}
            for column in order[row].tolist():
                other, similarity = int(places[row, column]), float(values[row, column])
                if len(found) == options.neighbours or similarity < options.min_similarity:
                    break
                if Indel.normalized_similarity(cleaned[start + row], cleaned[other]) <= options.near_duplicate:
                    found[other] = similarity
            nearest.append(found)
    pairs = [(one, other, s) for one, found in enumerate(nearest) for other, s in found.items() if one < other and one in nearest[other]]
    pairs.sort(key=lambda pair: (-pair[2], pair[0], pair[1]))
    used = np.zeros(count, np.int64)
    kept = []
    for one, other, similarity in pairs:
        if max(used[one], used[other]) < options.max_pairs_per_text:
            used[one] += 1
            used[other] += 1
            kept.append((one, other, similarity))
    return kept
