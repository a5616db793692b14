"""When texts are the same: a name that follows from the texts alone."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_WORDS = 2
_MODULUS = 1 << 64


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


def text_words(text: str) -> tuple[int, int]:
    """The two 64-bit words of one text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8 * _WORDS).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


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
