"""The clustering evaluation pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.clustering_evaluation.nodes import (
    align_vectors,
    collect_mteb_results,
    compare_strategies,
    gather_scores,
    plan_evaluation,
    plot_cluster_map,
    plot_comparison,
    plot_heatmap,
    plot_seeds,
    score_cells,
    tabulate_scores,
)
from embedding_adaptation.pipelines.clustering_evaluation.report import describe_evaluation


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  the signature Kedro calls
    """Tasks, embeddings and models -> scores, cell by cell -> comparison with tests, figures, report, mteb's result files."""
    sources = ["labelled_vectors", "embedding_store", "task_mirror", "finished_cells"]
    options = ["params:clustering_evaluation", "params:embedder"]
    return Pipeline(
        [
            Node(
                func=align_vectors,
                inputs=["base_embeddings", "adapted_embeddings", "labelled_texts", "base_model", "adapter", "params:embedder"],
                outputs="labelled_vectors",
                name="align_vectors_node",
            ),
            Node(
                func=plan_evaluation,
                inputs=[*sources, *options],
                outputs="evaluation_plan",
                name="plan_evaluation_node",
            ),
            Node(
                func=score_cells,
                inputs=["evaluation_plan", *sources, *options],
                outputs="evaluation_cells",
                name="score_cells_node",
            ),
            Node(
                func=gather_scores,
                inputs=["evaluation_plan", "evaluation_cells"],
                outputs="scored_cells",
                name="gather_scores_node",
            ),
            Node(
                func=tabulate_scores,
                inputs="scored_cells",
                outputs=["clustering_scores", "task_scores"],
                name="tabulate_scores_node",
            ),
            Node(
                func=compare_strategies,
                inputs=["scored_cells", "published_scores", *options],
                outputs=["strategy_comparison", "strategy_differences", "strategy_pivot"],
                name="compare_strategies_node",
            ),
            Node(
                func=describe_evaluation,
                inputs=["clustering_scores", "strategy_comparison", "labelled_vectors", *options],
                outputs="evaluation_report",
                name="describe_evaluation_node",
            ),
            Node(
                func=collect_mteb_results,
                inputs=["scored_cells", *options],
                outputs="mteb_results",
                name="collect_mteb_results_node",
            ),
            Node(
                func=plot_heatmap,
                inputs="strategy_comparison",
                outputs="strategy_heatmap",
                name="plot_heatmap_node",
            ),
            Node(
                func=plot_comparison,
                inputs=["strategy_comparison", "params:clustering_evaluation"],
                outputs="comparison_bars",
                name="plot_comparison_node",
            ),
            Node(
                func=plot_seeds,
                inputs="clustering_scores",
                outputs="seed_spread",
                name="plot_seeds_node",
            ),
            Node(
                func=plot_cluster_map,
                inputs=["labelled_vectors", "params:clustering_evaluation"],
                outputs="cluster_map",
                name="plot_cluster_map_node",
            ),
        ],
        tags="clustering_evaluation",
    )
