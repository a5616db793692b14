"""What each integration is made of: an embedder, and the strategy that it is used with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedding_adaptation.embedder.embedder import Embedder

if TYPE_CHECKING:
    from pathlib import Path

    from embedding_adaptation.embedder.strategy import Strategy


def embedder_and_strategy(model: Embedder | str | Path, strategy: Strategy | None) -> tuple[Embedder, Strategy]:
    """An embedder, loaded if need be, and a strategy that fits it.

    Args:
        model: An embedder in memory, or any source for :meth:`Embedder.load`: an exported folder, an adapter folder, a Hub id, a GGUF file.
        strategy: The strategy; ``None`` is the embedder's own.

    Raises:
        BaseModelError: If the model does not exist or cannot be used.
        StrategyError: If the strategy does not fit the model.
    """
    embedder = model if isinstance(model, Embedder) else Embedder.load(model)
    chosen = strategy or embedder.strategy
    embedder.check([chosen])
    return embedder, chosen
