"""Create the library's objects from the pipelines' typed options."""

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
    """Load an embedder according to the options; with ``four_bit``, its linear layers are quantised to four bits."""
    return Embedder.load(
        weights,
        device=options.device,
        dtype=options.dtype,
        max_length=options.max_length,
        batch_tokens=options.batch_tokens,
        four_bit=four_bit,
    )


def build_strategy(name: str, options: EmbedderOptions) -> Strategy:
    """The strategy of this name, without after-processing."""
    return options.strategy(name, options.every_strategy[name])


def fitted_strategies(
    embedder: Embedder, strategies: Mapping[str, StrategyOptions], options: EmbedderOptions, fitting_texts: Callable[[], list[str]]
) -> list[Strategy]:
    """Strategies with their after-processing fitted.

    Args:
        embedder: The weights to fit with.
        strategies: Strategies by name.
        options: The templates.
        fitting_texts: Returns unlabelled texts; called only if a strategy needs them.

    Returns:
        The strategies, in the order given.
    """
    unfitted = {name: options.strategy(name, strategy) for name, strategy in strategies.items()}
    to_fit = {name: strategy.after.steps for name, strategy in strategies.items() if strategy.after.title}
    if not to_fit:
        return list(unfitted.values())
    vectors = embedder.encode_strategies(fitting_texts(), [unfitted[name] for name in to_fit])
    return [
        replace(strategy, after=AfterProcessing.fit(vectors[name], to_fit[name], strategy.parts)) if name in to_fit else strategy
        for name, strategy in unfitted.items()
    ]
