"""The same text on both sides (SimCSE, arXiv 2104.08821): dropout makes the two vectors differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedding_adaptation.pipelines.data_augmentation.generators.request import Candidate, Context, Generator, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from embedding_adaptation.pipelines.data_augmentation.options import IdentityOptions


def generate(requests: Iterable[Request], options: IdentityOptions, context: Context) -> Iterator[Candidate]:  # noqa: ARG001  one signature
    """Pair each text with itself.

    Without dropout in training the two sides are one vector, and only the other texts of a batch teach anything.

    Args:
        requests: Texts.
        options: None.
        context: Not needed.

    Yields:
        Candidates in the order of the requests.
    """
    for request in requests:
        if request.turn == 0:
            yield Candidate.answering(request, request.source_text)


# A second turn would be the first again.
GENERATOR = Generator(generate, repeatable=False)
