"""Two parts of one text as a pair: natural positives that need no language model."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from embedding_adaptation.pipelines.data_augmentation.generators.request import Candidate, Context, Generator, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from embedding_adaptation.pipelines.data_augmentation.options import SpanPairsOptions

_SENTENCE = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+|(?<=[。！？])")
# Where a sentence can be divided: after these marks, before these words.
_CLAUSE = re.compile(
    r"(?<=[;:,–—])\s+|\s+(?=(?:and|but|or|because|while|when|which|who|so|although|after|before|if|where)\s)", re.IGNORECASE
)


def generate(requests: Iterable[Request], options: SpanPairsOptions, context: Context) -> Iterator[Candidate]:
    """Pair two disjoint parts of each text.

    A text of several sentences gives two adjacent ones, a single sentence its two clauses or else its two halves. Texts too short for two
    parts give nothing. Each turn of a text draws one of the possible divisions.

    Args:
        requests: Texts.
        options: Limits for each part.
        context: The seed.

    Yields:
        Candidates whose sides are the two parts.
    """
    for request in requests:
        parts = spans(request.source_text, options.min_words)
        if not parts:
            continue
        first, second = request.random(context.seed).choice(parts)
        limit = options.max_words
        if limit is not None:  # keep the words nearest to the division
            first, second = " ".join(first.split()[-limit:]), " ".join(second.split()[:limit])
        yield Candidate.answering(request, second, source_text=first)


def spans(text: str, min_words: int) -> list[tuple[str, str]]:
    """All ways to divide a text in two, of the best kind available: between sentences, between clauses, or in the middle."""
    sentences = [part.strip() for part in _SENTENCE.split(text) if part and part.strip()]
    pairs = [(one, other) for one, other in itertools.pairwise(sentences) if min(len(one.split()), len(other.split())) >= min_words]
    if pairs:
        return pairs
    for cut in _CLAUSE.finditer(text):
        first, second = text[: cut.start()].rstrip(" ,;:–—"), text[cut.end() :]
        if min(len(first.split()), len(second.split())) >= min_words:
            pairs.append((first, second))
    words = text.split()
    if not pairs and len(words) >= 2 * min_words:
        middle = len(words) // 2
        pairs.append((" ".join(words[:middle]), " ".join(words[middle:])))
    return pairs


GENERATOR = Generator(generate)
