"""The same text twice, with mistakes on one side."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from embedding_adaptation.pipelines.data_augmentation.generators.request import Candidate, Context, Generator, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from embedding_adaptation.pipelines.data_augmentation.options import NoiseOptions


def generate(requests: Iterable[Request], options: NoiseOptions, context: Context) -> Iterator[Candidate]:
    """Pair each text with a noisy copy of itself.

    Args:
        requests: Texts.
        options: Rates of the mistakes.
        context: The seed.

    Yields:
        Candidates in the order of the requests.
    """
    for request in requests:
        yield Candidate.answering(request, with_noise(request.source_text, options, request.random(context.seed)))


def with_noise(text: str, options: NoiseOptions, randomness: random.Random) -> str:
    """Delete words, swap adjacent words, and swap adjacent characters within words.

    At least one word remains. In scripts without spaces, only characters change.
    """
    words = text.split()
    kept = [word for word in words if randomness.random() >= options.delete_words] or words[:1]
    index = 0
    while index < len(kept) - 1:
        if randomness.random() < options.swap_words:
            kept[index], kept[index + 1] = kept[index + 1], kept[index]
            index += 1  # a swapped word is not swapped again
        index += 1
    return " ".join(_swapped(word, options.swap_characters, randomness) for word in kept)


def _swapped(word: str, rate: float, randomness: random.Random) -> str:
    if not rate:
        return word
    letters = list(word)
    index = 0
    while index < len(letters) - 1:
        if randomness.random() < rate:
            letters[index], letters[index + 1] = letters[index + 1], letters[index]
            index += 1
        index += 1
    return "".join(letters)


GENERATOR = Generator(generate)
