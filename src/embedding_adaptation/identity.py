"""When two things are the same: the one answer for texts, weights, strategies and settings.

An identity is a short name that follows from everything that makes a difference, and from nothing else: what a strategy or a template is
called and where a file lies decide nothing. Every store, cache, cell, checkpoint and export names its contents by one. A store also has
a format number, which is counted up when identities or contents begin to mean something else; what it holds in another format is not
used, and :func:`tell_of_other_formats` says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)

# Of a dataclass's field: what it holds is a name, and two that differ in it alone are the same.
A_NAME: Mapping[str, Any] = {"is_name": True}
_DIGITS = 32
_WORDS = 2
_MODULUS = 1 << 64
_WEIGHTS_FORMAT = 2
_FIRST_FORMAT_DIGITS = 64
# What an adapter's configuration says of where it came from and how it was trained, which changes no vector.
_TRAINED_WITH = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "loftq_config", "lora_dropout",
        "peft_version", "revision", "task_type",
    }
)  # fmt: skip


def canonical(value: Any) -> Any:
    """What counts of a value, as plain JSON.

    Args:
        value: What JSON knows, arrays (shape, number format and contents count), and dataclasses, mappings and sequences of such values. Of
            a dataclass every field counts but those with the metadata :data:`A_NAME`, so that a field added later counts too.

    Raises:
        TypeError: If something else is in it, of which it is not known what counts.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: canonical(getattr(value, field.name)) for field in fields(value) if "is_name" not in field.metadata}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "tobytes"):
        return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    msg = f"an identity cannot be made of {value!r} ({type(value).__name__}); give plain values, arrays or dataclasses"
    raise TypeError(msg)


def digest_of(value: Any) -> str:
    """A name for a value: 32 hexadecimal digits. Equal ones have equal names, whatever the order of a mapping.

    Raises:
        TypeError: See :func:`canonical`.
    """
    return hashlib.sha256(json.dumps(canonical(value), sort_keys=True).encode()).hexdigest()[:_DIGITS]


def files_sha256(files: Iterable[Path]) -> str:
    """SHA-256 of the contents of files, one after the other; of a single file the one that ``sha256sum`` gives."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def weights_identity(base: str, adapter: Path | None = None) -> str:
    """The identity of a decoder's weights: a format number, a hyphen and 32 hexadecimal digits.

    Args:
        base: Hash of the base weights, their configuration and tokenizer.
        adapter: A PEFT folder on top of them: its weights count, and its configuration as far as it changes vectors.
    """
    parts: list[Any] = [base]
    if adapter is not None:
        config = adapter / "adapter_config.json"
        settings = adapter_settings(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else None
        parts += [files_sha256(sorted(adapter.glob("adapter_model*.safetensors"))), settings]
    return f"{_WEIGHTS_FORMAT}-{digest_of(parts)}"


def is_of_older_format(weights: str) -> bool:
    """Whether an identity of weights was written by a version that named them otherwise, so that it cannot be compared with today's."""
    number, hyphen, _ = weights.partition("-")
    if not hyphen:
        return len(weights) == _FIRST_FORMAT_DIGITS  # the first format had no number
    return number.isdigit() and int(number) < _WEIGHTS_FORMAT


def adapter_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What changes vectors in an adapter's configuration, as ``adapter_config.json`` has it: rank, alpha, variant, modules, layers.

    What is off counts like what is not there, because versions of PEFT add settings; names of modules are a set, written in any order.
    """
    kept = {name: value for name, value in config.items() if name not in _TRAINED_WITH and value is not None and value is not False}
    return {
        name: sorted(value) if isinstance(value, (list, tuple, set)) and all(isinstance(item, str) for item in value) else value
        for name, value in kept.items()
        if value not in ([], {}, ())
    }


def vectors_identity(weights: str, strategy: object, *, max_length: int, dtype: str) -> str:
    """The identity of all that decides a text's vector.

    Args:
        weights: See :func:`weights_identity`.
        strategy: A :class:`~embedding_adaptation.embedder.strategy.Strategy`, with its after-processing as fitted, or the definition of
            one.
        max_length: Longest sequence in tokens.
        dtype: Number format of the weights in memory.
    """
    return digest_of({"weights": weights, "strategy": strategy, "max_length": max_length, "dtype": dtype})


def base_twin(name: str, definitions: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The strategy of base weights that differs from an adapted one by its weights alone.

    Args:
        name: The adapted strategy.
        definitions: Strategies to look among by name, see :meth:`~embedding_adaptation.options.EmbedderOptions.definition`.

    Returns:
        The name of the first such strategy; ``None`` where there is none, and for strategies of base weights.
    """
    own = definitions[name]
    if own["weights"] == "base":
        return None
    return next((other for other, definition in definitions.items() if definition == {**own, "weights": "base"}), None)


def training_identity(
    *,
    options: Mapping[str, Any],
    weights: str,
    strategy: object,
    max_length: int,
    dtype: str,
    tables: Mapping[str, Any],
    reference: object = None,
) -> str:
    """The identity of all that a training run's result depends on: 16 hexadecimal digits.

    Args:
        options: Those that decide the result.
        weights: The base weights, see :func:`weights_identity`.
        strategy: The strategy that is trained.
        max_length: Longest sequence in tokens.
        dtype: Number format of the weights in memory.
        tables: Pairs and texts by what they are for, each as columns by name (a data frame, for example): those that training reads, such
            as the texts and the ids by which batches keep pairs apart.
        reference: The strategy that texts' neighbours are compared with, or ``None``.
    """
    rows = {name: {column: texts_in_order(map(str, table[column])) for column in table} for name, table in tables.items()}
    vectors = vectors_identity(weights, strategy, max_length=max_length, dtype=dtype)
    return digest_of({"options": options, "vectors": vectors, "reference": reference, "tables": rows})[:16]


def format_folder(number: int) -> str:
    """The part of a store that is of a format; what lies beside it is of another."""
    return f"format-{number}"


def tell_of_other_formats(store: str, entries: Iterable[str], number: int) -> None:
    """Say in one sentence that a store holds nothing of today's format yet, but entries of others.

    Args:
        store: What to call it.
        entries: Names of what it holds; those of today's format begin with :func:`format_folder`.
        number: Today's format.
    """
    names = list(entries)
    if names and not any(name.partition("/")[0] == format_folder(number) for name in names):
        logger.warning(
            "%s holds what was kept in another format than %d, which this version writes: it is not used and can be deleted; what is "
            "needed of it is made again",
            store, number,
        )  # fmt: skip


class TextsIdentity:
    """Gathers the identity of texts, in any order, a few at a time.

    Each text is hashed to two 64-bit words, and these are summed: order and ids do not count, texts that occur twice do. The sums can be
    taken over any part of the texts by themselves and added up.

    Example:
        >>> whole = TextsIdentity(["one", "two"])
        >>> whole.hexdigest() == TextsIdentity(["two", "one"]).hexdigest()
        True
        >>> whole.hexdigest() == TextsIdentity(["one", "two", "two"]).hexdigest()
        False

    References:
        Multiset hashing by addition: Clarke et al., Incremental multiset hash functions and their application to memory integrity checking
        (ASIACRYPT 2003). It tells texts apart that differ by chance, not by an attacker's design.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._sums = [0] * _WORDS
        self.update(texts)

    def update(self, texts: Iterable[str]) -> None:
        """Add texts."""
        for text in texts:
            self.add_words(text_words(text))

    def add_words(self, words: Iterable[int]) -> None:
        """Add the two words of one text, or the sums of several texts' words."""
        self._sums = [(total + int(word)) % _MODULUS for total, word in zip(self._sums, words, strict=True)]

    def hexdigest(self) -> str:
        """The identity of all texts so far: 32 hexadecimal digits."""
        return "".join(f"{total:016x}" for total in self._sums)


def text_digest(text: str, size: int = 16) -> bytes:
    """Bytes that follow from a text alone; lone surrogates are taken as they are.

    Args:
        text: The text.
        size: How many bytes: 16 tell any texts apart, 8 are enough to draw by.
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def text_words(text: str) -> tuple[int, int]:
    """The two 64-bit words of one text."""
    digest = text_digest(text, 8 * _WORDS)
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


class SequenceIdentity:
    """Gathers the identity of texts in their order, a few at a time."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def update(self, texts: Iterable[str]) -> None:
        """Add texts."""
        for text in texts:
            self._digest.update(text.encode("utf-8", "surrogatepass") + b"\0")

    def hexdigest(self) -> str:
        """The identity of all texts so far: 32 hexadecimal digits."""
        return self._digest.hexdigest()


def texts_in_order(texts: Iterable[str]) -> str:
    """The identity of texts in their order: 32 hexadecimal digits."""
    identity = SequenceIdentity()
    identity.update(texts)
    return identity.hexdigest()


def labelled_identity(texts: Iterable[str], labels: Iterable[Any]) -> str:
    """The identity of labelled texts in their order: 32 hexadecimal digits, the same in every version, so that scores stay comparable."""
    content = json.dumps({"texts": list(texts), "labels": list(labels)}, sort_keys=True, ensure_ascii=False, default=str)
    return text_digest(content).hex()


@dataclass(frozen=True)
class CorpusIdentity:
    """Which corpus something was made from.

    Attributes:
        name: What its owner calls it: the file's name; empty where unknown.
        texts: Number of clean texts; 0 where unknown.
        clean: Identity of the clean texts, see :class:`TextsIdentity`.
        raw: Identity of the texts before cleaning; empty where unknown.
    """

    name: str
    texts: int
    clean: str
    raw: str = ""

    def is_of(self, identity: str) -> bool:
        """Whether texts of that identity are this corpus, clean or as the user gave it."""
        return identity in {self.clean, self.raw or self.clean}

    @property
    def title(self) -> str:
        """Name and size, for a sentence."""
        name = self.name or f"a corpus without a name ({self.clean[:8]})"
        return f"{name} ({self.texts:,} clean texts)" if self.texts else name

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> CorpusIdentity | None:
        """What :meth:`to_dict` gave; ``None`` stays ``None``."""
        return None if values is None else cls(**values)
