"""The clustering evaluation pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.clustering_evaluation.nodes import (
    compare_strategies,
    describe_evaluation,
    plot_cluster_map,
    score_strategies,
)


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  the signature Kedro calls
    """Embeddings and labels -> scores -> comparison table, cluster map, report."""
    vectors = ["base_embeddings", "adapted_embeddings", "labelled_texts", "params:clustering_evaluation"]
    return Pipeline(
        [
            Node(
                func=score_strategies,
                inputs=vectors,
                outputs="clustering_scores",
                name="score_strategies_node",
            ),
            Node(
                func=compare_strategies,
                inputs=["clustering_scores", "params:embedder"],
                outputs="strategy_comparison",
                name="compare_strategies_node",
            ),
            Node(
                func=describe_evaluation,
                inputs=["clustering_scores", *vectors, "params:embedder"],
                outputs="evaluation_report",
                name="describe_evaluation_node",
            ),
            Node(
                func=plot_cluster_map,
                inputs=vectors,
                outputs="cluster_map",
                name="plot_cluster_map_node",
            ),
        ],
        tags="clustering_evaluation",
    )
