"""The same text on both sides (SimCSE, arXiv 2104.08821): only dropout makes the two vectors differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedding_adaptation.pipelines.data_augmentation.generators.request import Candidate, Context, Generator, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from embedding_adaptation.pipelines.data_augmentation.options import IdentityOptions


def generate(requests: Iterable[Request], options: IdentityOptions, context: Context) -> Iterator[Candidate]:  # noqa: ARG001  interface of all generators
    """Pair each text with itself.

    Without dropout during training, both sides are the same vector, and only the negatives of a batch have any effect.

    Args:
        requests: Texts.
        options: Unused.
        context: Unused.

    Yields:
        Candidates in the order of the requests.
    """
    for request in requests:
        if request.turn == 0:
            yield Candidate.answering(request, request.source_text)


# A second turn would repeat the first.
GENERATOR = Generator(generate, repeatable=False)
