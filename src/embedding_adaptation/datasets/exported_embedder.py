"""The adapted embedder as a catalog dataset: a plain sentence-transformers folder with its model card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedding_adaptation.datasets.directory import DirectoryDataset

if TYPE_CHECKING:
    from pathlib import Path

    from sentence_transformers import SentenceTransformer

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy

CARD_FILE = "README.md"
FACTS_FILE = "model_facts.json"


@dataclass(frozen=True)
class ExportedEmbedder:
    """An embedder to export.

    Attributes:
        embedder: The adapted embedder.
        strategy: The strategy to export.
        card: The model card: front matter and Markdown.
        facts: The contents of the card, for programs.
    """

    embedder: Embedder
    strategy: Strategy
    card: str
    facts: dict[str, Any]


class ExportedEmbedderDataset(DirectoryDataset[ExportedEmbedder, "SentenceTransformer"]):
    """A folder that sentence-transformers loads without this package and without remote code.

    If the flavour in its facts is ``package``, the folder holds any strategy, and this package is needed to load it.

    Loading returns the ``SentenceTransformer``. Saving merges the adapter into the base weights; see
    :mod:`embedding_adaptation.embedder.export` for how template and truncation are kept.

    Args:
        filepath: Directory of the versions.
        version: Load and save version, from Kedro.
        metadata: Arbitrary values for other tools.

    Example:
        .. code-block:: yaml

            adapted_embedder:
              type: embedding_adaptation.datasets.exported_embedder.ExportedEmbedderDataset
              filepath: data/06_models/adapted_embedder
              versioned: true
    """

    def read_directory(self, directory: Path) -> SentenceTransformer:
        """Load the model, without remote code."""
        from sentence_transformers import SentenceTransformer

        from embedding_adaptation.embedder.packaged import is_packaged, load_packaged

        if is_packaged(directory):
            return load_packaged(directory)

        return SentenceTransformer(str(directory), trust_remote_code=False)

    def write_directory(self, data: ExportedEmbedder, directory: Path) -> None:
        """Write model, card and facts.

        Raises:
            ExportError: If plain sentence-transformers cannot carry out the strategy, and the flavour is the plain one.
        """
        from embedding_adaptation.embedder.export import write_sentence_transformer
        from embedding_adaptation.embedder.packaged import write_packaged

        if data.facts.get("flavour") == "package":
            data.embedder.strategy = data.strategy
            write_packaged(data.embedder, directory)
        else:
            write_sentence_transformer(data.embedder, directory, data.strategy)
        (directory / CARD_FILE).write_text(data.card, encoding="utf-8")
        (directory / FACTS_FILE).write_text(json.dumps(data.facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
