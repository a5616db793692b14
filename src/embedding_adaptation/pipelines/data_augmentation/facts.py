"""Numbers and names in texts, and which of them a rewrite has lost or invented.

Spelling rules, not a model. What they cannot decide counts as neither lost nor invented: names at the start of a sentence, in titles In
Title Case, in languages that capitalise all nouns, and in scripts other than Latin.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING

from rapidfuzz import fuzz, process

if TYPE_CHECKING:
    from collections.abc import Iterator

_CAPITAL_NOUNS = {"de", "lb"}
_SIMILAR = 85.0  # rapidfuzz's ratio from which two names are the same: plurals, endings, misspellings
_LONGEST_NUMBER = 40  # characters; the rest is ignored
_SHORTEST_LOUD = 3  # words; "PLEASE PAY NOW" is shouting and contains no names

_LETTERS = "[A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿ]+"
_WORD = re.compile(rf"{_LETTERS}(?:['’]{_LETTERS})*")
_ENDING = re.compile(r"['’](?:s|m|d|t|re|ve|ll)$", re.IGNORECASE)
# What precedes a sentence, a quotation or a list item; not the point in a number.
_BOUNDARY = re.compile(r"[.!?…:;。！？\n•|–—\"“„«*](?!(?<=\d.)\d)")
_FULL_STOPS = tuple(".!?…")
_FIRST_PERSON = re.compile("I(?:['’]|$)")
_NO_NAMES = {"ok", "am", "pm", "mr", "mrs", "ms", "dr"}

_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth")
_NUMERALS = {word: value for value, word in enumerate((*_UNITS, *_TEENS), start=1)} | dict(zip(_TENS, range(20, 100, 10), strict=True))
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
# Words that may stand for a number without being one: "the second", "one never knows".
_STANDS_FOR = (
    {word: str(value) for value, word in enumerate(_ORDINALS, start=1)}
    | dict.fromkeys(("a", "an", "one", "once", "single"), "1")
    | dict.fromkeys(("both", "couple", "pair", "twice", "double"), "2")
    | {"dozen": "12"}
)
_SPELLING = frozenset(_NUMERALS) - {"one"} | frozenset(_SCALES)
_SCALE = rf"(?:[ -]({'|'.join(_SCALES)})\b)?"
_SPELLED = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[ -]({'|'.join(_UNITS)}))?|({'|'.join((*_TEENS, *_UNITS))})|a(?= hundred| thou| mill))\b{_SCALE}"
)
_DIGITS = re.compile(rf"(\d{{1,3}}([,.'’ \u00a0\u2009\u202f])\d{{3}}(?:\2\d{{3}})*(?!\d)(?:[.,]\d+)?|\d+(?:[.,:]\d+)*){_SCALE}")
_SEPARATORS = re.compile("[.,:]")


class Facts:
    """The numbers and names in a text, each determined on first use.

    Args:
        text: The text.
        language: Its language as an ISO 639-1 code; empty if unknown.
    """

    def __init__(self, text: str, language: str = "") -> None:
        self._text = text
        self._lowered = text.lower()
        self._language = language

    def __len__(self) -> int:
        return len(self.numbers) + len(self.names)

    def missing_in(self, other: Facts) -> int:
        """How many of the numbers and names are missing in another text."""
        numbers = len(self.numbers - other.numbers - other.hinted_numbers) if self.numbers else 0
        names = sum(not _is_similar(name, other.words) for name in self.names - other.words) if self.names else 0
        return numbers + names

    @cached_property
    def words(self) -> frozenset[str]:
        """All words of Latin letters, in lower case and without the endings of possessives and contractions."""
        words = frozenset(_WORD.findall(self._lowered))
        if "'" in self._text or "’" in self._text:
            return frozenset(_ENDING.sub("", word) for word in words)
        return words

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Numbers in digits, and in English words from two upwards: ``1,000`` is 1000, ``5th`` is 5, ``two`` is 2, ``6:30`` is ``6.30``."""
        numbers = {number for match in _DIGITS.finditer(self._lowered) for number in _in_digits(match)}
        if not self.words.isdisjoint(_SPELLING):
            numbers.update(filter(None, map(_in_words, _SPELLED.finditer(self._lowered))))
        return frozenset(numbers)

    @cached_property
    def hinted_numbers(self) -> frozenset[str]:
        """Numbers that words such as ``first``, ``both`` or ``a`` may stand for."""
        return frozenset(_STANDS_FOR[word] for word in self.words & _STANDS_FOR.keys())

    @cached_property
    def names(self) -> frozenset[str]:
        """Capitalised words that do not begin a sentence, in lower case."""
        if self._language in _CAPITAL_NOUNS or self._text[1:] == self._lowered[1:]:
            return frozenset()
        return _names(self._text)


def _is_similar(name: str, words: frozenset[str]) -> bool:
    return process.extractOne(name, words, scorer=fuzz.ratio, score_cutoff=_SIMILAR) is not None


def _in_digits(match: re.Match[str]) -> Iterator[str]:
    digits, separator, scale = match.groups()
    if separator:
        digits = digits.replace(separator, "")
    if digits.isdecimal() and digits.isascii() and not scale:
        yield digits.lstrip("0") or "0"
        return
    parts = _SEPARATORS.split(digits[:_LONGEST_NUMBER].rstrip(".,:"))
    decimal = 2
    for part in (".".join(parts),) if len(parts) <= decimal else parts:
        yield _plain(Decimal(part) * _SCALES.get(scale, 1))


def _in_words(match: re.Match[str]) -> str | None:
    """The number that is spelled out; ``None`` for a mere "one"."""
    tens, unit, small, scale = match.groups()
    value = (_NUMERALS.get(tens, 0) + _NUMERALS.get(unit, 0) + _NUMERALS.get(small, 0)) or 1
    return None if value == 1 and not scale else _plain(Decimal(value * _SCALES.get(scale, 1)))


def _plain(number: Decimal) -> str:
    return format(number.normalize(), "f")


def _names(text: str) -> frozenset[str]:
    names: set[str] = set()
    words = capitalised = 0
    first = 1 if text.rstrip()[-1:] in _FULL_STOPS else 0  # in a title, the first word counts, too
    for sentence in map(_WORD.findall, _BOUNDARY.split(text.replace(" - ", "\n"))):
        capitals = [index for index, word in enumerate(sentence) if not word.islower() and not _FIRST_PERSON.match(word)]
        words += len(sentence[first:])
        capitalised += sum(index >= first for index in capitals)
        is_loud = len(sentence) >= _SHORTEST_LOUD and all(map(str.isupper, sentence))
        if not is_loud:
            names.update(_ENDING.sub("", sentence[index]).lower() for index in capitals if index)
    if capitalised > words / 2:
        return frozenset()
    return frozenset(name for name in names if len(name) > 1 and name not in _NO_NAMES)
