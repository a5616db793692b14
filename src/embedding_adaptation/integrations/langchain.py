"""The embedder as LangChain's ``Embeddings``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedding_adaptation.integrations.source import embedder_and_strategy

try:
    from langchain_core.embeddings import Embeddings
except ModuleNotFoundError as error:
    msg = f"LangChain is not installed ({error}): pip install 'embedding-adaptation[integrations]', or langchain-core"
    raise ModuleNotFoundError(msg, name=error.name) from error

if TYPE_CHECKING:
    from pathlib import Path

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy


class AdaptedEmbeddings(Embeddings):
    """Embeds documents and queries for LangChain's vector stores, both with the same strategy.

    Args:
        model: An embedder in memory, or any source for :meth:`Embedder.load`: an exported folder, an adapter folder, a Hub id, a GGUF file.
        strategy: The strategy; ``None`` is the embedder's own.
        progress: Whether to show a progress bar on stderr.

    Raises:
        BaseModelError: If the model does not exist or cannot be used.
        StrategyError: If the strategy does not fit the model.

    Example:
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> store = InMemoryVectorStore(AdaptedEmbeddings("models/my-llama"))  # doctest: +SKIP
    """

    def __init__(self, model: Embedder | str | Path, *, strategy: Strategy | None = None, progress: bool = False) -> None:
        self.embedder, self.strategy = embedder_and_strategy(model, strategy)
        self.progress = progress

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector of ``D`` numbers per text, in input order; none for no texts.

        Raises:
            TypeError: If a text is not a string.
        """
        return self.embedder.encode(texts, self.strategy, progress=self.progress).tolist()

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query, of ``D`` numbers: the same as that of a document with this text.

        Raises:
            TypeError: If the query is not a string.
        """
        return self.embed_documents([text])[0]
