"""The interface of generators: requests, candidates and context."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from embedding_adaptation.identity import text_digest

if TYPE_CHECKING:
    from embedding_adaptation.datasets.chat_server import ChatServerKey
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.data_augmentation.options import GeneratorOptions
    from embedding_adaptation.runtime import VectorMemory
    from embedding_adaptation.texts.stream import TextStream


class GenerationError(RuntimeError):
    """Candidates that cannot be generated; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one candidate.

    Attributes:
        key: 16 hexadecimal digits derived from text, style and turn; they identify finished work and seed all randomness.
        source_id: Id of the text in the corpus.
        source_text: The clean text.
        turn: Number of candidates that this generator has already made from the text.
        style: The style, for generators that have styles.
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
        """A random generator for this request alone, independent of all other requests."""
        return random.Random(f"{seed}/{self.key}")  # noqa: S311  not for cryptography


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that may become a positive pair.

    Attributes:
        key: The key of the request, or one derived from the pair if it was not requested individually.
        source_id: Id of the text it comes from.
        source_text: One side of the pair: the text, or a part of it.
        generated_text: The other side.
        style: The style of the request.
        finished: Whether a language model completed its answer.
        other_id: Id of the other side, if that is a text of the corpus, too.
        own_score: The generator's own score for the pair, if any; for neighbours, their similarity.
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
        """The candidate for a request; give ``source_text`` if the first side of the pair is not the whole text."""
        first = request.source_text if source_text is None else source_text
        return cls(request.key, request.source_id, first, generated_text, request.style, finished)


@dataclass(frozen=True)
class Context:
    """What generators may need besides their options.

    Attributes:
        seed: Seed of every random choice.
        base_model: The project's base model.
        embedder_options: Device, number format, templates and strategies.
        embedder: Loads the base model as an embedder, once.
        server_key: The key of a chat server, from Kedro's credentials.
        progress: Whether to show progress bars on stderr.
        memory: Vectors of texts.
    """

    seed: int
    base_model: DecoderWeights
    embedder_options: EmbedderOptions
    embedder: Callable[[], Embedder]
    server_key: ChatServerKey | None = None
    progress: bool = True
    memory: VectorMemory | None = None


_OptionsT = TypeVar("_OptionsT", bound="GeneratorOptions")


def _nothing_to_check(options: Any, context: Context) -> None:
    """The options have already checked everything."""


def _nothing_more(options: Any, corpus: TextStream, context: Context) -> list[Any]:  # noqa: ARG001  interface of all generators
    """Name, options and seed determine everything."""
    return []


def _no_model(options: Any, context: Context) -> tuple[str, str]:  # noqa: ARG001  interface of all generators
    """No model is involved."""
    return "", ""


@dataclass(frozen=True)
class Generator(Generic[_OptionsT]):
    """A generator of candidates; each module of this package defines one, named ``GENERATOR``.

    Attributes:
        generate: Makes candidates from requests, in any order, leaving out those from which none can be made. Raises
            :class:`GenerationError` if it cannot work at all.
        whole_corpus: Whether the pairs depend on the corpus, or a file, as a whole, so that they are made in one go and not planned one by
            one.
        repeatable: Whether another turn for the same text gives another candidate.
        from_corpus: Whether the texts of its pairs come from the corpus.
        is_written: Whether the candidates are a language model's free text, from which wrapping is stripped before scoring.
        check: Raises :class:`GenerationError` before any work if the generator cannot work.
        identity: What the candidates of a text depend on besides the generator's name, its options and the seed, as values that
            :func:`~embedding_adaptation.identity.canonical` accepts.
        format: Increased when the same texts and options begin to give other candidates, or other names for them.
        provenance: Model and revision that wrote the candidates; empty if no model was involved.
    """

    generate: Callable[[Iterable[Request], _OptionsT, Context], Iterator[Candidate]]
    whole_corpus: bool = False
    repeatable: bool = True
    from_corpus: bool = True
    is_written: bool = False
    check: Callable[[_OptionsT, Context], None] = _nothing_to_check
    identity: Callable[[_OptionsT, TextStream, Context], list[Any]] = _nothing_more
    provenance: Callable[[_OptionsT, Context], tuple[str, str]] = _no_model
    format: int = 1


def load_generator(name: str) -> Generator[Any]:
    """The generator of this name: ``GENERATOR`` in ``generators/<name>.py``."""
    generator: Generator[Any] = importlib.import_module(f"{__package__}.{name}").GENERATOR
    return generator


def text_key(*parts: object) -> str:
    """16 hexadecimal digits derived from the given values."""
    return text_digest("\0".join(str(part) for part in parts), 8).hex()


def digest_fraction(*parts: object) -> float:
    """A number in [0, 1) derived from the given values alone."""
    return int(text_key(*parts), 16) / 2.0**64
