"""What every generator takes and gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from embedding_adaptation.identity import text_digest

if TYPE_CHECKING:
    from embedding_adaptation.datasets.chat_server import ChatServerKey
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions


class GenerationError(RuntimeError):
    """Candidates that cannot be made; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Request:
    """One candidate that is wanted.

    Attributes:
        key: 16 hexadecimal digits that follow from text, style and turn: what is done is known by them, and all randomness comes from them.
        source_id: The text's id in the corpus.
        source_text: The clean text.
        turn: How many candidates of this generator the text has got already.
        style: For generators with styles, which one.
    """

    key: str
    source_id: str
    source_text: str
    turn: int = 0
    style: str = ""

    @classmethod
    def of(cls, source_id: str, source_text: str, turn: int = 0, style: str = "") -> Request:
        """A request with its key."""
        return cls(text_key(source_text, style, turn), source_id, source_text, turn, style)

    def random(self, seed: int) -> random.Random:
        """A source of randomness of this request's own: the same whatever else is requested, before or beside it."""
        return random.Random(f"{seed}/{self.key}")  # noqa: S311  nothing secret


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that may become a positive one.

    Attributes:
        key: The request's key; of pairs nobody requested one by one, what they follow from.
        source_id: Id of the text it comes from.
        source_text: One side of the pair: the text, or a part of it.
        generated_text: The other side.
        style: The request's style.
        finished: Whether a language model came to its own end.
        other_id: Where the other side is a text of the corpus as well, its id.
        own_score: How good the generator itself takes the pair to be, where it can tell; of neighbours, their similarity.
    """

    key: str
    source_id: str
    source_text: str
    generated_text: str
    style: str = ""
    finished: bool = True
    other_id: str = ""
    own_score: float = float("nan")

    @classmethod
    def answering(cls, request: Request, generated_text: str, *, source_text: str | None = None, finished: bool = True) -> Candidate:
        """The candidate of a request; ``source_text`` where the pair's first side is not the whole text."""
        first = request.source_text if source_text is None else source_text
        return cls(request.key, request.source_id, first, generated_text, request.style, finished)


@dataclass(frozen=True)
class Context:
    """What generators may need beside their options.

    Attributes:
        seed: Every random choice follows from it.
        base_model: The project's base model.
        embedder_options: Device, number format, templates and strategies.
        embedder: Loads the base model as an embedder, once.
        server_key: The key of a chat server, from Kedro's credentials.
        progress: Whether to show bars on stderr.
    """

    seed: int
    base_model: DecoderWeights
    embedder_options: EmbedderOptions
    embedder: Callable[[], Embedder]
    server_key: ChatServerKey | None = None
    progress: bool = True


_OptionsT_contra = TypeVar("_OptionsT_contra", contravariant=True)


class Generator(Protocol[_OptionsT_contra]):
    """A generator: the module-level function ``generate`` of each module here.

    Candidates may come in any order. A generator that finds nothing to make of a text leaves it out.
    """

    def __call__(self, requests: Iterable[Request], options: _OptionsT_contra, context: Context) -> Iterator[Candidate]:
        """Make candidates of requests.

        Raises:
            GenerationError: If none can be made; the message says why and what to do.
        """


def text_key(*parts: object) -> str:
    """16 hexadecimal digits that follow from the given values."""
    return text_digest("\0".join(str(part) for part in parts), 8).hex()


def digest_fraction(*parts: object) -> float:
    """A number from 0 up to 1 that follows from the given values alone."""
    return int(text_key(*parts), 16) / 2.0**64
