"""The text clustering pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.text_clustering.nodes import (
    cluster_texts,
    describe_clusters,
    embed_corpus,
    grow_tree,
    list_assignments,
    map_texts,
    name_clusters,
    plot_stability,
    report_clustering,
    write_clusters_page,
)


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  Kedro's interface
    """Unlabelled texts -> clusters with words and names, a table of texts, a map and a tree."""
    return Pipeline(
        [
            Node(
                func=embed_corpus,
                inputs=[
                    "corpus",
                    "base_model",
                    "trained_adapter",
                    "model_facts",
                    "corpus_shards",
                    "embedding_store",
                    "params:text_clustering",
                    "params:embedder",
                ],
                outputs="corpus_vectors",
                name="embed_corpus_node",
            ),
            Node(
                func=cluster_texts,
                inputs=["corpus", "corpus_vectors", "params:text_clustering"],
                outputs=["text_clusters", "cluster_stability"],
                name="cluster_texts_node",
            ),
            Node(
                func=plot_stability,
                inputs=["cluster_stability", "params:text_clustering"],
                outputs="cluster_stability_figure",
                name="plot_stability_node",
            ),
            Node(
                func=describe_clusters,
                inputs=["corpus", "text_clusters", "params:text_clustering"],
                outputs="cluster_profiles",
                name="describe_clusters_node",
            ),
            Node(
                func=name_clusters,
                inputs=["cluster_profiles", "base_model", "chat_server", "params:text_clustering", "params:embedder"],
                outputs="cluster_summary",
                name="name_clusters_node",
            ),
            Node(
                func=list_assignments,
                inputs=["corpus", "text_clusters", "cluster_summary"],
                outputs="cluster_assignments",
                name="list_assignments_node",
            ),
            Node(
                func=map_texts,
                inputs=["corpus", "corpus_vectors", "text_clusters", "cluster_summary", "params:text_clustering"],
                outputs=["text_map", "map_points"],
                name="map_texts_node",
            ),
            Node(
                func=grow_tree,
                inputs=["text_clusters", "cluster_summary"],
                outputs=["cluster_tree", "cluster_tree_figure"],
                name="grow_tree_node",
            ),
            Node(
                func=write_clusters_page,
                inputs=["corpus", "text_clusters", "cluster_summary", "cluster_tree", "map_points", "params:text_clustering"],
                outputs="clusters_page",
                name="write_clusters_page_node",
            ),
            Node(
                func=report_clustering,
                inputs=["text_clusters", "cluster_summary"],
                outputs="clustering_report",
                name="report_clustering_node",
            ),
        ],
        tags="text_clustering",
    )
