"""Decide when two texts, weights, strategies or settings are the same; the only place that does.

An identity is a digest of everything that makes a difference, and of nothing else: the name of a strategy or template and the location
of a file do not count. Every store, cache, cell, checkpoint and export names its contents by identities. A store also has a format number,
which is incremented when identities or contents change their meaning; data in other formats are not used.
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

# Metadata of a dataclass field that is only a name: instances that differ in it alone are the same.
A_NAME: Mapping[str, Any] = {"is_name": True}
_DIGITS = 32
_WORDS = 2
_MODULUS = 1 << 64
_WEIGHTS_FORMAT = 2
_FIRST_FORMAT_DIGITS = 64
# Fields of an adapter's configuration on its origin and training, which do not affect vectors.
_TRAINED_WITH = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "loftq_config", "lora_dropout",
        "peft_version", "revision", "task_type",
    }
)  # fmt: skip


def canonical(value: Any) -> Any:
    """The parts of a value that make a difference, as plain JSON.

    Args:
        value: JSON values, arrays (shape, number format and contents count), and dataclasses, mappings and sequences of such values. All
            fields of a dataclass count, except those with the metadata :data:`A_NAME`.

    Raises:
        TypeError: If it contains anything else.
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
    msg = f"cannot compute an identity of {value!r} ({type(value).__name__}); use plain values, arrays or dataclasses"
    raise TypeError(msg)


def digest_of(value: Any) -> str:
    """Digest of a value: 32 hexadecimal digits, the same for equal values, whatever the order of a mapping.

    Raises:
        TypeError: See :func:`canonical`.
    """
    return hashlib.sha256(json.dumps(canonical(value), sort_keys=True).encode()).hexdigest()[:_DIGITS]


def files_sha256(files: Iterable[Path]) -> str:
    """SHA-256 of the concatenated contents of files; for a single file, the result of ``sha256sum``."""
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
        adapter: A PEFT folder on top of them: its weights count, and its configuration as far as it affects vectors.
    """
    parts: list[Any] = [base]
    if adapter is not None:
        config = adapter / "adapter_config.json"
        settings = adapter_settings(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else None
        parts += [files_sha256(sorted(adapter.glob("adapter_model*.safetensors"))), settings]
    return f"{_WEIGHTS_FORMAT}-{digest_of(parts)}"


def is_of_older_format(weights: str) -> bool:
    """Whether an identity of weights was written by an earlier version and cannot be compared with current ones."""
    number, hyphen, _ = weights.partition("-")
    if not hyphen:
        return len(weights) == _FIRST_FORMAT_DIGITS  # the first format had no number
    return number.isdigit() and int(number) < _WEIGHTS_FORMAT


def adapter_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an ``adapter_config.json`` that affects vectors: rank, alpha, variant, modules, layers.

    A setting that is off counts as absent, because new versions of PEFT add settings. Module names are a set, written in any order.
    """
    kept = {name: value for name, value in config.items() if name not in _TRAINED_WITH and value is not None and value is not False}
    return {
        name: sorted(value) if isinstance(value, (list, tuple, set)) and all(isinstance(item, str) for item in value) else value
        for name, value in kept.items()
        if value not in ([], {}, ())
    }


def vectors_identity(weights: str, strategy: object, *, max_length: int, dtype: str) -> str:
    """The identity of everything that determines a text's vector.

    Args:
        weights: See :func:`weights_identity`.
        strategy: A :class:`~embedding_adaptation.embedder.strategy.Strategy`, with its after-processing as fitted, or the definition of
            one.
        max_length: Longest sequence in tokens.
        dtype: Number format of the weights in memory.
    """
    return digest_of({"weights": weights, "strategy": strategy, "max_length": max_length, "dtype": dtype})


def base_twin(name: str, definitions: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The strategy of the base weights that differs from an adapted one only in its weights.

    Args:
        name: The adapted strategy.
        definitions: Strategies to search, by name, see :meth:`~embedding_adaptation.options.EmbedderOptions.definition`.

    Returns:
        The name of the first such strategy; ``None`` if there is none, or if ``name`` uses base weights itself.
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
    """The identity of everything that a training run's result depends on: 16 hexadecimal digits.

    Args:
        options: Those that affect the result.
        weights: The base weights, see :func:`weights_identity`.
        strategy: The strategy that is trained.
        max_length: Longest sequence in tokens.
        dtype: Number format of the weights in memory.
        tables: Pairs and texts by role, each a mapping from column names to values (such as a data frame), with the columns that
            training reads.
        reference: The strategy that texts' neighbours are compared with, or ``None``.
    """
    rows = {name: {column: texts_in_order(map(str, table[column])) for column in table} for name, table in tables.items()}
    vectors = vectors_identity(weights, strategy, max_length=max_length, dtype=dtype)
    return digest_of({"options": options, "vectors": vectors, "reference": reference, "tables": rows})[:16]


def format_folder(number: int) -> str:
    """The folder of a store for data in one format."""
    return f"format-{number}"


def tell_of_other_formats(store: str, entries: Iterable[str], number: int) -> None:
    """Warn that a store contains data in other formats, but none in the current one.

    Args:
        store: Its name in the message.
        entries: Names of its entries; those in the current format begin with :func:`format_folder`.
        number: The current format.
    """
    names = list(entries)
    if names and not any(name.partition("/")[0] == format_folder(number) for name in names):
        logger.warning(
            "%s contains data in a format other than %d, the one this version writes; they are not used and can be deleted: what is "
            "needed of them is computed again",
            store, number,
        )  # fmt: skip


class TextsIdentity:
    """Computes the identity of texts incrementally; their order does not matter.

    Each text is hashed to two 64-bit words, and these are summed: order and ids do not count, repeated texts do. Sums over parts of the
    texts can be added up.

    Example:
        >>> whole = TextsIdentity(["one", "two"])
        >>> whole.hexdigest() == TextsIdentity(["two", "one"]).hexdigest()
        True
        >>> whole.hexdigest() == TextsIdentity(["one", "two", "two"]).hexdigest()
        False

    References:
        Multiset hashing by addition: Clarke et al., Incremental multiset hash functions and their application to memory integrity checking
        (ASIACRYPT 2003). It is not safe against deliberately constructed collisions.
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
    """Digest of a text; lone surrogates are allowed.

    Args:
        text: The text.
        size: Number of bytes: 16 distinguish any texts, 8 suffice for random draws.
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def text_words(text: str) -> tuple[int, int]:
    """The two 64-bit words of one text."""
    digest = text_digest(text, 8 * _WORDS)
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


class SequenceIdentity:
    """Computes the identity of texts in their order, incrementally."""

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
    """The corpus that something was made from.

    Attributes:
        name: The file's name; empty if unknown.
        texts: Number of clean texts; 0 if unknown.
        clean: Identity of the clean texts, see :class:`TextsIdentity`.
        raw: Identity of the texts before cleaning; empty if unknown.
    """

    name: str
    texts: int
    clean: str
    raw: str = ""

    def is_of(self, identity: str) -> bool:
        """Whether an identity is this corpus's, clean or raw."""
        return identity in {self.clean, self.raw or self.clean}

    @property
    def title(self) -> str:
        """Name and size, for messages."""
        name = self.name or f"an unnamed corpus ({self.clean[:8]})"
        return f"{name} ({self.texts:,} clean texts)" if self.texts else name

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> CorpusIdentity | None:
        """What :meth:`to_dict` gave; ``None`` stays ``None``."""
        return None if values is None else cls(**values)
