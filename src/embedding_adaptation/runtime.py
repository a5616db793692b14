"""From options to objects of the library: where the pipelines' typed parameters meet the embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from embedding_adaptation.embedder.embedder import Embedder, Strategy
from embedding_adaptation.embedder.template import PromptTemplate

if TYPE_CHECKING:
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions


def load_embedder(weights: DecoderWeights, options: EmbedderOptions) -> Embedder:
    """Load an embedder as the options say."""
    return Embedder.load(
        weights,
        device=options.device,
        dtype=options.dtype,
        max_length=options.max_length,
        batch_tokens=options.batch_tokens,
    )


def build_strategy(name: str, options: EmbedderOptions) -> Strategy:
    """The strategy of that name."""
    chosen = options.strategies[name]
    template = PromptTemplate(chosen.template, options.templates[chosen.template])
    return Strategy(name, template, chosen.pooling, chosen.normalise)


def strategies_of(weights: Literal["base", "adapted"], options: EmbedderOptions) -> list[Strategy]:
    """The strategies that use the given weights, in the order of the options."""
    return [build_strategy(name, options) for name, chosen in options.strategies.items() if chosen.weights == weights]
