"""The pipeline that writes one page about an adaptation."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.adaptation_page.nodes import (
    attention_of_moved_texts,
    compare_weights,
    find_questions,
    write_adaptation_page,
)


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  Kedro's interface
    """Corpus, its clusters, base and adapted weights -> maps before and after, questions -> a page."""
    return Pipeline(
        [
            Node(
                func=compare_weights,
                inputs=[
                    "corpus",
                    "text_clusters",
                    "base_model",
                    "adapter",
                    "embedding_store",
                    "params:adaptation_page",
                    "params:embedder",
                ],
                outputs=["adaptation_points", "moved_texts"],
                name="compare_weights_node",
            ),
            Node(
                func=attention_of_moved_texts,
                inputs=["moved_texts", "adapter", "params:adaptation_page", "params:embedder"],
                outputs="moved_attention",
                name="attention_of_moved_texts_node",
            ),
            Node(
                func=find_questions,
                inputs=[
                    "adapter",
                    "clean_corpus",
                    "embedding_store",
                    "params:adaptation_page",
                    "params:adaptation_verdict",
                    "params:embedder",
                ],
                outputs="questions",
                name="find_questions_node",
            ),
            Node(
                func=write_adaptation_page,
                inputs=[
                    "corpus",
                    "adaptation_points",
                    "moved_texts",
                    "moved_attention",
                    "questions",
                    "text_clusters",
                    "cluster_summary",
                    "adapter",
                    "model_facts",
                    "verdict",
                    "training_report",
                    "training_history",
                    "augmentation_report",
                    "params:adaptation_page",
                    "params:adaptation_verdict",
                ],
                outputs="adaptation_page",
                name="write_adaptation_page_node",
            ),
        ],
        tags="adaptation_page",
    )
