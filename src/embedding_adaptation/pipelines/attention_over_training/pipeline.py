"""The pipeline that follows attention over the checkpoints of one run."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.attention_over_training.nodes import measure_checkpoints, plot_over_training, relate_attention


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  the signature Kedro calls
    """Checkpoints and texts -> attention by step -> correlation with quality, and a figure."""
    return Pipeline(
        [
            Node(
                func=measure_checkpoints,
                inputs=[
                    "base_model",
                    "checkpoints",
                    "attention_texts",
                    "params:attention_over_training",
                    "params:attention_analysis",
                    "params:embedder",
                ],
                outputs="attention_by_step",
                name="measure_checkpoints_node",
            ),
            Node(
                func=relate_attention,
                inputs=["attention_by_step", "training_history", "params:attention_over_training", "params:attention_analysis"],
                outputs="attention_and_quality",
                name="relate_attention_node",
            ),
            Node(
                func=plot_over_training,
                inputs=["attention_by_step", "training_history", "params:attention_over_training"],
                outputs="attention_by_step_figure",
                name="plot_over_training_node",
            ),
        ],
        tags="attention_over_training",
    )
