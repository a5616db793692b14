"""Names of clusters made of their distinctive words, and whether a proposed name has one of them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import regex

from embedding_adaptation.pipelines.text_clustering.words import words_of
from embedding_adaptation.texts.scripts import UNSPACED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SEPARATOR = " · "
_MOST_WORDS = 4
_MOST_PARTS = 3
# Two words with this beginning in common are forms of one, where stems differ: verify and verification, Japan and Japanese.
_BEGINNING, _SHARE = 5, 0.7


def parts_of_name(words: Sequence[str], stem: Callable[[str], str]) -> list[str]:
    """The distinctive words, or pairs of words, that make up a name: up to four words, no two of them forms of the same.

    Of a pair with a word that the name already has, only the other is added.

    Args:
        words: Distinctive words of a cluster, the most distinctive first.
        stem: Maps a word to its stem.

    Example:
        >>> parts_of_name(["virtual card", "card", "disposable virtual", "physical card", "fee"], str.lower)
        ['virtual card', 'disposable', 'physical']
        >>> parts_of_name(["top", "top-up", "fee"], str.lower)
        ['top-up', 'fee']
    """
    parts: list[str] = []
    for word in words:
        alike = [part for part in parts if share_a_word(part, word, stem)]
        if len(alike) == 1 and " " not in word and _stems(word, stem) > _stems(alike[0], stem):
            parts[parts.index(alike[0])] = word  # a part of a compound is no word of its own
            continue
        rest = " ".join(one for one in word.split() if not any(share_a_word(part, one, stem) for part in parts))
        if rest and len(parts) < _MOST_PARTS and _length([*parts, rest]) <= _MOST_WORDS:
            parts.append(rest)
    return parts


def share_a_word(one: str, other: str, stem: Callable[[str], str]) -> bool:
    """Whether two expressions have a word in common, in whatever form.

    Args:
        one: An expression.
        other: Another one.
        stem: Maps a word to its stem.

    Example:
        >>> share_a_word("Identity verification", "verify", str.lower)
        True
        >>> share_a_word("transfer", "transaction", str.lower)
        False
    """
    return any(_same(first, second) for first, second in itertools.product(_stems(one, stem), _stems(other, stem)))


def _stems(text: str, stem: Callable[[str], str]) -> set[str]:
    return {stem(part) for word in words_of(text) for part in word.split("-") if part}


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    if regex.fullmatch(rf"(?V1)[{UNSPACED}]+", one + other):
        return one[-1] == other[0] or other[-1] == one[0]  # every two adjacent characters: halves of one word
    beginning = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return beginning >= _BEGINNING and beginning >= _SHARE * min(len(one), len(other))


def _length(parts: Sequence[str]) -> int:
    return sum(len(part.split()) for part in parts)
