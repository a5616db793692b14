"""Nodes of model export: adapter and reports -> facts -> exported embedder with its model card."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from embedding_adaptation.datasets.adapter import adapter_corpus
from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.datasets.embeddings import Embeddings
from embedding_adaptation.datasets.exported_embedder import ExportedEmbedder
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.model_export.options import ExportOptions
from embedding_adaptation.repeatable import repeatable
from embedding_adaptation.texts.stream import TextStream

logger = logging.getLogger(__name__)


@repeatable
def export_embedder(
    adapter: DecoderWeights,
    model_facts: dict[str, Any],
    base_embeddings: Embeddings,
    adapted_embeddings: Embeddings,
    corpus: TextStream,
    embedding_store: EmbeddingStore,
    options: ExportOptions,
    embedder_options: EmbedderOptions,
) -> ExportedEmbedder:
    """Prepare the embedder for export as a plain sentence-transformers folder: on the CPU, with the adapter merged and weights converted.

    Args:
        adapter: The adapted weights.
        model_facts: The facts for the model card, which say whether the base or the adapted weights are exported.
        base_embeddings: Vectors extracted with the base weights, whose fitted after-processing is exported: what was scored is shipped.
        adapted_embeddings: Likewise with the adapted weights.
        corpus: Unlabelled texts, to fit after-processing if none has been extracted.
        embedding_store: Their vectors.
        options: Export options.
        embedder_options: Templates and strategies.

    Returns:
        Embedder, strategy and model card, for the dataset to write.
    """
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.export import merge_adapter
    from embedding_adaptation.embedder.portable import is_read_alike
    from embedding_adaptation.pipelines.model_export.card import model_card
    from embedding_adaptation.runtime import build_strategy, fitted_strategies, load_embedder

    name, weights, embeddings = options.strategy_name(embedder_options), adapter, adapted_embeddings
    if model_facts["strategy"]["weights"] == "base":
        name, weights, embeddings = model_facts["strategy"]["name"], DecoderWeights(adapter.base, adapter.card), base_embeddings
    chosen, strategy = embedder_options.every_strategy[name], build_strategy(name, embedder_options)
    if chosen.after.title:
        is_ours = embeddings.weights == weights.fingerprint()
        after = embeddings.renamed(embedder_options.identities).after.get(name) if is_ours else None
        if after is not None:
            strategy = replace(strategy, after=after)
        else:
            logger.info("no after-processing of %r has been extracted with these weights; it is fitted on the corpus", name)
            trained = adapter_corpus(adapter)
            if trained is not None and not trained.is_of(corpus.identity()):
                logger.warning(
                    "after-processing is fitted on %s, but the adapter was trained on %s; unless that is meant, give these texts with "
                    "--params corpus=FILE",
                    corpus.name or "these texts", trained.title,
                )  # fmt: skip
            texts = corpus.sample(options.fitting_texts, options.seed)["text"].tolist()
            embedder = load_embedder(weights, embedder_options)
            (strategy,) = fitted_strategies(embedder, {name: chosen}, embedder_options, lambda: texts, embedding_store)
    embedder = Embedder.load(weights, device="cpu", dtype="float32", max_length=embedder_options.max_length, strategy=strategy)
    merge_adapter(embedder, options.dtype)
    older = is_read_alike(embedder.backbone.config)
    dimensions = strategy.after.dimensions if strategy.after else embedder.dimension(strategy)
    facts = model_facts | {"dimensions": dimensions, "older_versions": older}
    return ExportedEmbedder(embedder, strategy, model_card(facts), facts)
