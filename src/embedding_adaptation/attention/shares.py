"""Shares of the last token's attention, by text, layer and head, and by word."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from embedding_adaptation.attention.words import (
    WORD_KINDS,
    overlap,
    prompt_words,
    spans_of_parts,
    split_words,
)
from embedding_adaptation.texts.function_words import FUNCTION_WORDS

if TYPE_CHECKING:
    from embedding_adaptation.attention.rows import AttentionRows, TextAttention

PARTS = ("sink", "prefix", "text", "suffix", "self")
KEYS = ("id", "layer", "head")
# Ratios of shares, computed after averaging over heads, because they are undefined for a head that attends only to the sink.
DERIVED = ("text_without_sink", "content_of_text")
_PIECE = 256


@dataclass(frozen=True)
class Spans:
    """How the row is divided.

    Attributes:
        sink_tokens: How many of the first tokens are the sink.
        separate_self: Whether the last token is a part of its own.
        function_words: Words that do not count as content words, in lower case.
        patterns: Additional classes of words, each a regular expression that matches the whole word, ignoring case.
        top_k: Number of tokens with the most attention that make up ``top_k``.
    """

    sink_tokens: int = 1
    separate_self: bool = True
    function_words: Collection[str] = FUNCTION_WORDS
    patterns: Mapping[str, str] = field(default_factory=dict)
    top_k: int = 5

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, in the order of :func:`row_measures`."""
        return (*PARTS, *WORD_KINDS, *self.patterns, "entropy", "top_k", "text_relative")


def row_measures(one: TextAttention, spans: Spans) -> np.ndarray:
    """All measures of one text in every layer and head.

    - ``sink``, ``prefix``, ``text``, ``suffix``, ``self``: shares that sum to one;
    - ``content``, ``function``, ``punctuation``, ``number``: shares that sum to that of the text. A token that belongs to two words is
      divided by characters; spaces belong to the following word, and line breaks count as punctuation;
    - the classes of ``spans.patterns``, which may overlap with all others;
    - ``entropy`` of the row in nats, between 0 (one token) and the logarithm of the number of tokens;
    - ``top_k``: share of the tokens with the most attention, other than the sink;
    - ``text_relative``: the text's share of attention divided by its share of the tokens: 1 if the last token treats text and template
      alike, NaN if the text has no tokens.

    Args:
        one: A recorded text.
        spans: How the row is divided.

    Returns:
        ``[L, H, M]`` float32, M in the order of ``spans.measures``.
    """
    row = np.asarray(one.row, np.float64)  # [L, H, T]
    width = row.shape[-1]
    parts = spans_of_parts(width, one.text_start, one.text_end, sink_tokens=spans.sink_tokens, separate_self=spans.separate_self)
    words = split_words(one.text, spans.function_words)
    classes = np.zeros((len(words) + 1, len(WORD_KINDS) + len(spans.patterns)), np.float64)  # [W + 1, C]
    patterns = [re.compile(pattern, re.IGNORECASE) for pattern in spans.patterns.values()]
    for number, word in enumerate(words):
        classes[number, WORD_KINDS.index(word.kind)] = 1.0
        for place, pattern in enumerate(patterns, start=len(WORD_KINDS)):
            classes[number, place] = float(pattern.fullmatch(word.text) is not None)
    classes[-1, WORD_KINDS.index("punctuation")] = 1.0
    masks = np.zeros((width, len(PARTS) + classes.shape[1]), np.float64)  # [T, S]
    for place, name in enumerate(PARTS):
        masks[parts[name], place] = 1.0
    text = parts["text"]
    masks[text, len(PARTS) :] = (overlap(one.spans, words, one.text) @ classes)[text - one.text_start]
    shares = row @ masks  # [L, H, S]
    entropy = -(row * np.log(np.maximum(row, 1e-30))).sum(axis=-1)  # [L, H]
    others = np.sort(row[..., spans.sink_tokens :], axis=-1)  # [L, H, T - sink]
    heaviest = others[..., -spans.top_k :].sum(axis=-1) if others.shape[-1] else np.zeros(row.shape[:2])  # [L, H]
    relative = shares[..., PARTS.index("text")] * (width / len(text)) if len(text) else np.full(row.shape[:2], np.nan)  # [L, H]
    return np.concatenate([shares, np.stack([entropy, heaviest, relative], axis=-1)], axis=-1).astype(np.float32)  # [L, H, M]


def measure_rows(rows: AttentionRows, spans: Spans) -> Iterator[pd.DataFrame]:
    """Measures of a recording's texts, excluding examples, a few hundred texts at a time.

    Args:
        rows: The recording.
        spans: How the rows are divided.

    Yields:
        Frames with ``id``, ``layer`` (from 1), ``head`` (from 0) and ``spans.measures``; one row per text, layer and head, in this order.
    """
    layers, heads = np.array(rows.layers, np.int16), np.array(rows.heads, np.int16)
    size = len(layers) * len(heads)
    texts = islice(rows, rows.examples, None)
    while piece := list(islice(texts, _PIECE)):
        values = np.concatenate([row_measures(one, spans).reshape(size, -1) for one in piece])  # [n L H, M]
        frame = pd.DataFrame(values, columns=list(spans.measures))
        frame.insert(0, "id", np.repeat(np.array([one.id for one in piece], object), size))
        frame.insert(1, "layer", np.tile(np.repeat(layers, len(heads)), len(piece)))
        frame.insert(2, "head", np.tile(heads, len(layers) * len(piece)))
        yield frame.astype({"id": str})


def measure_words(rows: AttentionRows, spans: Spans, layers: Sequence[int] = ()) -> Iterator[pd.DataFrame]:
    """Attention on each word of each prompt, averaged over layers and heads, a few hundred texts at a time.

    Args:
        rows: The recording.
        spans: Defines sink, self and function words.
        layers: Recorded layers to average over, counted from 1; empty averages over all.

    Yields:
        Frames with ``id``, ``example``, ``place`` (the word's index in its prompt), ``part``, ``word``, ``kind``, ``start`` and ``end``
        (its span of characters in the text, -1 outside it), ``tokens``, ``attention`` and ``cut`` (whether the text was truncated).
    """
    indices = [rows.layers.index(layer) for layer in layers] or list(range(len(rows.layers)))
    texts = enumerate(rows)
    while piece := list(islice(texts, _PIECE)):
        entries: list[tuple[object, ...]] = []
        for number, one in piece:
            row = np.asarray(one.row)[indices].mean(axis=(0, 1), dtype=np.float64)  # [T]
            words = prompt_words(
                rows, one, spans.function_words, sink_tokens=spans.sink_tokens, separate_self=spans.separate_self
            )  # fmt: skip
            entries.extend(
                (one.id, number < rows.examples, place, word.part, word.text, word.kind, word.start, word.end, word.tokens,
                 float(row @ word.weights), one.cut)
                for place, word in enumerate(words)
            )  # fmt: skip
        yield pd.DataFrame(
            entries, columns=["id", "example", "place", "part", "word", "kind", "start", "end", "tokens", "attention", "cut"]
        )
