"""Typed options of attention analysis."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator, model_validator

from embedding_adaptation.attention.shares import DERIVED, KEYS, Spans
from embedding_adaptation.options import Layers, Names, Options
from embedding_adaptation.texts.function_words import FUNCTION_WORDS

if TYPE_CHECKING:
    import pandas as pd


class SpanOptions(Options):
    """How the last token's attention is divided."""

    sink_tokens: int = Field(1, ge=1, description="How many of the first tokens are the sink.")
    separate_self: bool = Field(True, description="Whether the last token is a part of its own rather than of the suffix.")
    patterns: dict[str, str] = Field(
        {}, description="Additional classes of words in the text, each a regular expression that matches the whole word."
    )

    @field_validator("patterns")
    @classmethod
    def _check_patterns(cls, patterns: dict[str, str]) -> dict[str, str]:
        for name, pattern in patterns.items():
            reserved = {*Spans().measures, *KEYS, *DERIVED}
            if name in reserved:
                msg = f"patterns: the name {name!r} is reserved; choose a name other than {', '.join(sorted(reserved))}"
                raise ValueError(msg)
            try:
                re.compile(pattern)
            except re.error as error:
                msg = f"patterns: {name!r} is not a valid regular expression: {pattern!r} ({error})"
                raise ValueError(msg) from error
        return patterns


class AttentionOptions(Options):
    """All options of attention analysis."""

    max_texts: int = Field(100, ge=1, description="Number of texts to draw at random.")
    seed: int = Field(ge=0, description="Seed of the random draw and of the confidence intervals.")
    layers: Layers = Field((), description="Layers to record, counted from 1, or backwards from -1; empty records all.")
    heads: Layers = Field((), description="Heads to record, counted from 0; empty records all.")
    shown_layers: Layers = Field(
        (), description="Recorded layers to average over for words, examples and the page; empty averages over all."
    )
    spans: SpanOptions = SpanOptions()
    stop_words: Names | None = Field(None, description="Words that do not count as content words; null uses the built-in English ones.")
    top_k: int = Field(5, ge=1, description="Number of tokens with the most attention that make up top_k.")
    examples: Names = Field((), description="Sentences to show word by word; empty shows the first text drawn.")
    page_texts: int = Field(50, ge=1, description="Number of texts on the page.")
    private: bool = Field(False, description="Whether to leave words and ids of texts out of the page and the figures.")
    min_texts_of_word: int = Field(3, ge=1, description="Words in fewer texts than this are not ranked by how their attention changed.")
    occlusion_texts: int = Field(
        4, ge=0, description="Number of texts whose words are removed one by one for comparison with attention; 0 skips this."
    )
    resamples: int = Field(1000, ge=10, description="Number of bootstrap resamples behind each confidence interval.")
    confidence: float = Field(0.95, gt=0.0, lt=1.0, description="Confidence level of the intervals.")

    @property
    def division(self) -> Spans:
        """How the rows are divided."""
        return Spans(
            sink_tokens=self.spans.sink_tokens,
            separate_self=self.spans.separate_self,
            function_words=FUNCTION_WORDS if self.stop_words is None else frozenset(word.casefold() for word in self.stop_words),
            patterns=self.spans.patterns,
            top_k=self.top_k,
        )

    def draw(self, texts: pd.DataFrame) -> pd.DataFrame:
        """Draw at most ``max_texts`` texts at random."""
        return texts.sample(min(self.max_texts, len(texts)), random_state=self.seed)

    @model_validator(mode="after")
    def _check_examples(self) -> Self:
        for number, example in enumerate(self.examples, start=1):
            if not example.strip():
                msg = f"example {number} is empty; write a sentence or remove it"
                raise ValueError(msg)
        return self
