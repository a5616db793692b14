"""The data augmentation pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.data_augmentation.nodes import (
    clean_corpus,
    generate_candidates,
    plot_augmentation,
    score_candidates,
    select_pairs,
)


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  Kedro's interface
    """Corpus -> clean corpus -> candidate pairs -> scores -> accepted and rejected pairs."""
    return Pipeline(
        [
            Node(
                func=clean_corpus,
                inputs=["corpus", "params:data_augmentation", "params:embedder"],
                outputs=["clean_corpus", "corpus_report"],
                name="clean_corpus_node",
            ),
            Node(
                func=generate_candidates,
                inputs=[
                    "clean_corpus",
                    "base_model",
                    "chat_server",
                    "finished_candidates",
                    "embedding_store",
                    "params:data_augmentation",
                    "params:embedder",
                    "params:contrastive_finetuning.steps",
                    "params:contrastive_finetuning.batch_size",
                ],
                outputs="candidate_pairs",
                name="generate_candidates_node",
            ),
            Node(
                func=score_candidates,
                inputs=["clean_corpus", "candidate_pairs", "finished_scores", "base_model", "params:data_augmentation", "params:embedder"],
                outputs="pair_scores",
                name="score_candidates_node",
            ),
            Node(
                func=select_pairs,
                inputs=["clean_corpus", "candidate_pairs", "pair_scores", "base_model", "params:data_augmentation", "params:embedder"],
                outputs=["positive_pairs", "rejected_pairs", "augmentation_report"],
                name="select_pairs_node",
            ),
            Node(
                func=plot_augmentation,
                inputs="augmentation_report",
                outputs="augmentation_overview",
                name="plot_augmentation_node",
            ),
        ],
        tags="data_augmentation",
    )
