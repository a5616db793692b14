"""The contrastive fine-tuning pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.contrastive_finetuning.nodes import (
    plot_training_curve,
    split_pairs,
    train_adapter,
)
from embedding_adaptation.pipelines.contrastive_finetuning.report import describe_training


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  the signature Kedro calls
    """Positive pairs -> training and validation pairs -> adapter, training history, curve and report."""
    return Pipeline(
        [
            Node(
                func=split_pairs,
                inputs=["positive_pairs", "params:contrastive_finetuning"],
                outputs=["train_pairs", "validation_pairs"],
                name="split_pairs_node",
            ),
            Node(
                func=train_adapter,
                inputs=[
                    "base_model",
                    "train_pairs",
                    "validation_pairs",
                    "clean_corpus",
                    "corpus_report",
                    "training_checkpoints",
                    "embedding_store",
                    "params:contrastive_finetuning",
                    "params:embedder",
                ],
                outputs=["adapter", "training_history"],
                name="train_adapter_node",
            ),
            Node(
                func=describe_training,
                inputs=[
                    "adapter",
                    "train_pairs",
                    "validation_pairs",
                    "training_history",
                    "corpus_report",
                    "params:contrastive_finetuning",
                ],
                outputs="training_report",
                name="describe_training_node",
            ),
            Node(
                func=plot_training_curve,
                inputs="training_history",
                outputs="training_curve",
                name="plot_training_curve_node",
            ),
        ],
        tags="contrastive_finetuning",
    )
