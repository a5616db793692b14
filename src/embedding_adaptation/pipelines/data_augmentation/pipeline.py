"""The data augmentation pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.data_augmentation.nodes import clean_corpus, filter_candidates, generate_candidates


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  the signature Kedro calls
    """Corpus -> clean corpus -> candidate pairs -> accepted and rejected pairs."""
    return Pipeline(
        [
            Node(
                func=clean_corpus,
                inputs=["corpus", "params:data_augmentation"],
                outputs=["clean_corpus", "corpus_report"],
                name="clean_corpus_node",
            ),
            Node(
                func=generate_candidates,
                inputs=["clean_corpus", "base_model", "finished_candidates", "params:data_augmentation", "params:embedder"],
                outputs="candidate_pairs",
                name="generate_candidates_node",
            ),
            Node(
                func=filter_candidates,
                inputs=["candidate_pairs", "clean_corpus", "base_model", "params:data_augmentation"],
                outputs=["positive_pairs", "rejected_pairs", "augmentation_report"],
                name="filter_candidates_node",
            ),
        ],
        tags="data_augmentation",
    )
