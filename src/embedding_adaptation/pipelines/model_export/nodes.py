"""Nodes of model export: adapter and reports -> facts -> exported embedder with its model card."""

from __future__ import annotations

from typing import Any

from embedding_adaptation.datasets.exported_embedder import ExportedEmbedder
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.model_export.options import ExportOptions


def export_embedder(
    adapter: DecoderWeights, model_facts: dict[str, Any], options: ExportOptions, embedder_options: EmbedderOptions
) -> ExportedEmbedder:
    """Prepare the embedder for export as a plain sentence-transformers folder: on the CPU, with the adapter merged and weights converted.

    Args:
        adapter: The adapted weights.
        model_facts: The facts for the model card.
        options: Export options.
        embedder_options: Templates and strategies.

    Returns:
        Embedder, strategy and model card, for the dataset to write.
    """
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.export import merge_adapter
    from embedding_adaptation.embedder.portable import is_read_alike
    from embedding_adaptation.pipelines.model_export.card import model_card
    from embedding_adaptation.runtime import build_strategy

    strategy = build_strategy(options.strategy_name(embedder_options), embedder_options)
    embedder = Embedder.load(adapter, device="cpu", dtype="float32", max_length=embedder_options.max_length, strategy=strategy)
    merge_adapter(embedder, options.dtype)
    older = is_read_alike(embedder.backbone.config)
    facts = model_facts | {"dimensions": embedder.dimension(strategy), "older_versions": older}
    return ExportedEmbedder(embedder, strategy, model_card(facts), facts)
