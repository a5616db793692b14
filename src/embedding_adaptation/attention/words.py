"""From tokens to words: the words that people read, and their kinds."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from embedding_adaptation.texts.function_words import FUNCTION_WORDS
from embedding_adaptation.texts.scripts import WORD_CHARACTERS

if TYPE_CHECKING:
    from embedding_adaptation.attention.rows import AttentionRows, TextAttention

WordKind = Literal["content", "function", "punctuation", "number", "template"]
WORD_KINDS: tuple[WordKind, ...] = ("content", "function", "punctuation", "number")

_WORD = re.compile(
    r"\d+(?:[.,:/]\d+)*[^\W_]*"  # 20th, 5k, 1,000.50, 12/07
    rf"|[{WORD_CHARACTERS}]"
    r"|[^\W_]+(?:['’\-][^\W_]+)*"
    r"|[^\w\s]+|_+"
)


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        text: The word as written.
        start: Index of its first character in the text.
        end: Index after its last character.
        kind: Content word, function word, number, or punctuation (including other symbols).
    """

    text: str
    start: int
    end: int
    kind: WordKind


def split_words(text: str, function_words: Collection[str] = FUNCTION_WORDS) -> list[Word]:
    """Split a text into words, numbers and runs of punctuation, without white space.

    Args:
        text: Any text.
        function_words: Words that do not count as content words, in lower case.

    Example:
        >>> [(word.text, word.kind) for word in split_words("It's 20 quid!")]
        [("It's", 'function'), ('20', 'number'), ('quid', 'content'), ('!', 'punctuation')]
    """
    return [Word(m[0], m.start(), m.end(), word_kind(m[0], function_words)) for m in _WORD.finditer(text)]


def word_kind(word: str, function_words: Collection[str] = FUNCTION_WORDS) -> WordKind:
    """The kind of a word; a contraction is a function word if the part before the apostrophe is one."""
    if word[0].isdecimal():
        return "number"
    if not any(character.isalnum() for character in word):
        return "punctuation"
    plain = word.casefold().replace("’", "'")
    stems = (plain, plain.partition("'")[0], plain.removesuffix("n't"))
    return "function" if any(stem in function_words for stem in stems) else "content"


def overlap(spans: Sequence[tuple[int, int]], words: Sequence[Word], text: str) -> np.ndarray:
    """Divide each token among words by characters.

    A token of spaces belongs to the following word: many tokenizers put one before each number.

    Args:
        spans: Half-open character span of each token.
        words: The text's words in order.
        text: The text.

    Returns:
        ``[tokens, words + 1]`` float32, whose rows sum to one. The last column is for tokens outside any word, such as line breaks.
    """
    shared = np.zeros((len(spans), len(words) + 1), np.float32)  # [T, W + 1]
    if words and spans:
        starts, ends = (np.array([getattr(word, name) for word in words]) for name in ("start", "end"))  # [W]
        tokens = np.array(spans)  # [T, 2]
        shared[:, :-1] = np.maximum(0, np.minimum(tokens[:, 1:], ends) - np.maximum(tokens[:, :1], starts))
    numbers = {word.start: number for number, word in enumerate(words)}
    for token in np.flatnonzero(shared.sum(axis=1) == 0).tolist():
        first, last = spans[token]
        shared[token, numbers.get(last, -1) if not text[first:last].strip(" ") else -1] = 1.0
    return shared / shared.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class PromptWord:
    """A word of a prompted text with the attention it gets.

    Attributes:
        part: ``sink``, ``prefix``, ``text``, ``suffix`` or ``self``.
        text: The word as written, or a special token's name.
        kind: The kind of a word of the text; ``template`` elsewhere.
        start: Index of its first character in the text; -1 outside it.
        end: Index after its last character; -1 outside the text.
        weights: ``[T]`` float32, how much of each token belongs to it.
    """

    part: str
    text: str
    kind: WordKind
    start: int
    end: int
    weights: np.ndarray

    @property
    def tokens(self) -> float:
        """Number of tokens it consists of; a token shared with other words counts in part."""
        return float(self.weights.sum())


def prompt_words(
    rows: AttentionRows, one: TextAttention, function_words: Collection[str], *, sink_tokens: int = 1, separate_self: bool = True
) -> list[PromptWord]:
    """The words of a whole prompt in reading order; a token that belongs to several words is divided by characters.

    The first tokens (sink) and the last (self) are separate entries, whatever words they are part of.

    Args:
        rows: The recording, for the words of the template.
        one: One of its texts.
        function_words: Words that do not count as content words.
        sink_tokens: How many of the first tokens are the sink.
        separate_self: Whether the last token is a separate entry.
    """
    width = one.row.shape[-1]
    places = spans_of_parts(width, one.text_start, one.text_end, sink_tokens=sink_tokens, separate_self=separate_self)
    prompt: list[PromptWord] = []
    text_words = split_words(one.text, function_words)
    sides = (
        ("prefix", 0, rows.prefix, _words_of(rows.prefix.words)),
        ("text", one.text_start, None, text_words),
        ("suffix", one.text_end, rows.suffix, _words_of(rows.suffix.words)),
    )
    for part, first, frame, words in sides:
        spans = frame.spans if frame else one.spans
        shares = overlap(spans, words, frame.words if frame else one.text)  # [T', W + 1]
        labels = frame.labels if frame else [one.text[a:b] for a, b in spans]
        own = np.isin(np.arange(first, first + len(spans)), places[part])  # [T'], tokens that are neither sink nor self
        for token in np.flatnonzero(~own).tolist():
            alone = "self" if first + token in places["self"] else "sink"
            prompt.append(_at(width, first + token, alone, labels[token] or "∅"))
        for column in range(shares.shape[1]):
            weights = np.zeros(width, np.float32)
            weights[first : first + len(spans)] = shares[:, column] * own
            if not weights.any():
                continue
            word = words[column] if column < len(words) else None
            if word is None and frame:
                prompt.extend(
                    _at(width, first + token, part, labels[token]) for token in np.flatnonzero(weights[first:][: len(spans)]).tolist()
                )
                continue
            inside = word is not None and part == "text"
            prompt.append(
                PromptWord(
                    part, word.text if word else "␣", word.kind if word and inside else "punctuation" if part == "text" else "template",
                    word.start if word and inside else -1, word.end if word and inside else -1, weights,
                )
            )  # fmt: skip
    return sorted(prompt, key=lambda word: float(np.flatnonzero(word.weights)[0]) + (0.5 if word.text == "␣" else 0.0))


def spans_of_parts(
    width: int, text_start: int, text_end: int, *, sink_tokens: int = 1, separate_self: bool = True
) -> dict[str, np.ndarray]:
    """The token indices of a prompt that are sink, prefix, text, suffix and self; each is exactly one of them.

    Args:
        width: Number of tokens in the prompt.
        text_start: Index of the text's first token.
        text_end: Index after its last token.
        sink_tokens: How many of the first tokens are the sink. The sink takes precedence: if the sequence begins with the text, the text's
            first token is the sink.
        separate_self: Whether the last token is a part of its own. If a template ends with the text, it is the text's last token.
    """
    part = np.full(width, "suffix", "<U6")
    part[:text_start], part[text_start:text_end] = "prefix", "text"
    if separate_self:
        part[-1] = "self"
    part[:sink_tokens] = "sink"
    return {name: np.flatnonzero(part == name) for name in ("sink", "prefix", "text", "suffix", "self")}


def _at(width: int, place: int, part: str, label: str) -> PromptWord:
    weights = np.zeros(width, np.float32)
    weights[place] = 1.0
    return PromptWord(part, label.strip() or "␣", "template", -1, -1, weights)


@lru_cache(maxsize=64)
def _words_of(side: str) -> list[Word]:
    return split_words(side)
