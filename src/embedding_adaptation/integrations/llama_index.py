"""The embedder as LlamaIndex's ``BaseEmbedding``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from embedding_adaptation.integrations.source import embedder_and_strategy

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
except ModuleNotFoundError as error:
    msg = f"LlamaIndex is not installed ({error}): pip install 'embedding-adaptation[integrations]', or llama-index-core"
    raise ModuleNotFoundError(msg, name=error.name) from error

if TYPE_CHECKING:
    from pathlib import Path

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy


class AdaptedEmbedding(BaseEmbedding):
    """Embeds nodes and queries for LlamaIndex's indexes, both with the same strategy.

    Args:
        model: An embedder in memory, or any source for :meth:`Embedder.load`: an exported folder, an adapter folder, a Hub id, a GGUF file.
        strategy: The strategy; ``None`` is the embedder's own.
        settings: Further fields of ``BaseEmbedding``, such as ``embed_batch_size``: how many texts LlamaIndex hands over at a time.

    Raises:
        BaseModelError: If the model does not exist or cannot be used.
        StrategyError: If the strategy does not fit the model.

    Example:
        >>> from llama_index.core import VectorStoreIndex
        >>> index = VectorStoreIndex(nodes, embed_model=AdaptedEmbedding("models/my-llama"))  # doctest: +SKIP
    """

    _embedder: Any = PrivateAttr()
    _strategy: Any = PrivateAttr()

    def __init__(self, model: Embedder | str | Path, *, strategy: Strategy | None = None, **settings: Any) -> None:
        embedder, chosen = embedder_and_strategy(model, strategy)
        super().__init__(**{"model_name": chosen.name, "embed_batch_size": 256, **settings})
        self._embedder, self._strategy = embedder, chosen

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex lists the class."""
        return "AdaptedEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embedder.encode(texts, self._strategy, progress=False).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)
