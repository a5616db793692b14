"""What every generator takes and gives."""

from __future__ import annotations

import hashlib
import importlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from embedding_adaptation.datasets.chat_server import ChatServerKey
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.data_augmentation.options import GeneratorOptions
    from embedding_adaptation.texts.stream import TextStream


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


_OptionsT = TypeVar("_OptionsT", bound="GeneratorOptions")


def _nothing_to_check(options: Any, context: Context) -> None:
    """Nothing can be wrong that the options do not check themselves."""


def _nothing_more(options: Any, corpus: TextStream, context: Context) -> list[Any]:  # noqa: ARG001  one signature
    """Name, options and seed decide everything."""
    return []


def _no_model(options: Any, context: Context) -> tuple[str, str]:  # noqa: ARG001  one signature
    """No model has a part in it."""
    return "", ""


@dataclass(frozen=True)
class Generator(Generic[_OptionsT]):
    """A generator of candidates: each module of this package has one, by the name ``GENERATOR``.

    Attributes:
        generate: Makes candidates of requests, in any order; what nothing can be made of is left out. Raises :class:`GenerationError` where
            none can be made.
        whole_corpus: Whether the pairs follow from the corpus, or from a file, as a whole: they are made in one go, not planned one by one.
        repeatable: Whether another turn for the same text gives another candidate.
        from_corpus: Whether the texts of its pairs are the corpus's, and not the user's from elsewhere.
        is_written: Whether the candidates are a language model's free text, whose wrapping is taken off before it is scored.
        check: Raises :class:`GenerationError` before any work where the generator cannot work.
        identity: What decides the candidates of a text beside the generator's name, its options and the seed; values for JSON.
        provenance: Whose words the candidates are: model and revision, empty where no model has a part in it.
    """

    generate: Callable[[Iterable[Request], _OptionsT, Context], Iterator[Candidate]]
    whole_corpus: bool = False
    repeatable: bool = True
    from_corpus: bool = True
    is_written: bool = False
    check: Callable[[_OptionsT, Context], None] = _nothing_to_check
    identity: Callable[[_OptionsT, TextStream, Context], list[Any]] = _nothing_more
    provenance: Callable[[_OptionsT, Context], tuple[str, str]] = _no_model


def load_generator(name: str) -> Generator[Any]:
    """The generator of that name: ``GENERATOR`` of the module ``generators/<name>.py``."""
    generator: Generator[Any] = importlib.import_module(f"{__package__}.{name}").GENERATOR
    return generator


def text_key(*parts: object) -> str:
    """16 hexadecimal digits that follow from the given values."""
    joined = "\0".join(str(part) for part in parts)
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def digest_fraction(*parts: object) -> float:
    """A number from 0 up to 1 that follows from the given values alone."""
    return int(text_key(*parts), 16) / 2.0**64


def texts_digest(texts: Iterable[str]) -> str:
    """A digest of texts in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
