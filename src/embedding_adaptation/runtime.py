"""From options to objects of the library: where the pipelines' typed parameters meet the embedder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedding_adaptation.embedder.after_processing import AfterProcessing
from embedding_adaptation.embedder.embedder import Embedder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedding_adaptation.embedder.strategy import Strategy
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions, StrategyOptions


def load_embedder(weights: DecoderWeights, options: EmbedderOptions, *, four_bit: bool = False) -> Embedder:
    """Load an embedder as the options say; with its linear layers in four bits, if asked."""
    return Embedder.load(
        weights,
        device=options.device,
        dtype=options.dtype,
        max_length=options.max_length,
        batch_tokens=options.batch_tokens,
        four_bit=four_bit,
    )


def build_strategy(name: str, options: EmbedderOptions) -> Strategy:
    """The strategy of that name, without after-processing."""
    return options.strategy(name, options.every_strategy[name])


def fitted_strategies(
    embedder: Embedder, chosen: Mapping[str, StrategyOptions], options: EmbedderOptions, fitting_texts: Callable[[], list[str]]
) -> list[Strategy]:
    """Strategies with their after-processing fitted.

    Args:
        embedder: The weights to fit with.
        chosen: Strategies by name.
        options: The templates.
        fitting_texts: Gives unlabelled texts; called only where a strategy needs them.

    Returns:
        The strategies, in the order given.
    """
    plain = {name: options.strategy(name, strategy) for name, strategy in chosen.items()}
    to_fit = {name: strategy.after.steps for name, strategy in chosen.items() if strategy.after.title}
    if not to_fit:
        return list(plain.values())
    vectors = embedder.encode_strategies(fitting_texts(), [plain[name] for name in to_fit])
    return [
        replace(strategy, after=AfterProcessing.fit(vectors[name], to_fit[name])) if name in to_fit else strategy
        for name, strategy in plain.items()
    ]
