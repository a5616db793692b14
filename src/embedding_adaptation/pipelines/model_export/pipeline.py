"""The model export pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.model_export.facts import describe_model
from embedding_adaptation.pipelines.model_export.nodes import export_embedder


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  Kedro's interface
    """Adapter and reports -> facts -> exported embedder with its model card."""
    options = ["params:model_export", "params:embedder"]
    return Pipeline(
        [
            Node(
                func=describe_model,
                inputs=["adapter", "training_report", "evaluation_report", "verdict", *options],
                outputs="model_facts",
                name="describe_model_node",
            ),
            Node(
                func=export_embedder,
                inputs=["adapter", "model_facts", "base_embeddings", "adapted_embeddings", "corpus", "embedding_store", *options],
                outputs="adapted_embedder",
                name="export_embedder_node",
            ),
        ],
        tags="model_export",
    )
