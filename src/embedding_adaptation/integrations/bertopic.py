"""The embedder as BERTopic's embedding model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedding_adaptation.integrations.source import embedder_and_strategy

try:
    from bertopic.backend import BaseEmbedder
except ModuleNotFoundError as error:
    msg = f"BERTopic is not installed ({error}): pip install 'embedding-adaptation[integrations]', or bertopic"
    raise ModuleNotFoundError(msg, name=error.name) from error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy


class AdaptedBackend(BaseEmbedder):
    """Embeds documents, words and queries for BERTopic, all with the same strategy.

    Args:
        model: An embedder in memory, or any source for :meth:`Embedder.load`: an exported folder, an adapter folder, a Hub id, a GGUF file.
        strategy: The strategy; ``None`` is the embedder's own.

    Raises:
        BaseModelError: If the model does not exist or cannot be used.
        StrategyError: If the strategy does not fit the model.

    Example:
        >>> from bertopic import BERTopic
        >>> topics = BERTopic(embedding_model=AdaptedBackend("models/my-llama"))  # doctest: +SKIP
    """

    def __init__(self, model: Embedder | str | Path, *, strategy: Strategy | None = None) -> None:
        super().__init__()
        self.embedder, self.strategy = embedder_and_strategy(model, strategy)

    def embed(self, documents: Iterable[str], verbose: bool = False) -> np.ndarray:  # noqa: FBT001, FBT002  BERTopic's interface
        """Vectors ``[N, D]`` of texts.

        Args:
            documents: The texts.
            verbose: Whether to show a progress bar on stderr.

        Raises:
            TypeError: If a text is not a string.
        """
        return self.embedder.encode(documents, self.strategy, progress=verbose)
