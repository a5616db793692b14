"""The whole chain: its pipelines and a report."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines import (
    adaptation_page,
    adaptation_verdict,
    attention_analysis,
    clustering_evaluation,
    contrastive_finetuning,
    data_augmentation,
    embedding_extraction,
    model_export,
    text_clustering,
)
from embedding_adaptation.pipelines.end_to_end.nodes import write_report


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  Kedro's interface
    """Corpus and labelled texts -> adapter, scores, attention shift, report, exported model, and a page about all of it."""
    report = Pipeline(
        [
            Node(
                func=write_report,
                inputs=[
                    "strategy_comparison",
                    "attention_summary",
                    "augmentation_report",
                    "training_report",
                    "model_facts",
                    "params:embedder",
                ],
                outputs="report",
                name="write_report_node",
                tags="end_to_end",
            )
        ]
    )
    parts = (
        data_augmentation,
        contrastive_finetuning,
        adaptation_verdict,
        embedding_extraction,
        clustering_evaluation,
        attention_analysis,
        model_export,
        adaptation_page,
    )
    # Alone, text_clustering takes the adapter of an earlier run, if there is one; here it waits for this run's.
    themes = Pipeline(text_clustering.create_pipeline(), inputs={"trained_adapter": "adapter"})
    return sum((part.create_pipeline() for part in parts), start=report + themes)
