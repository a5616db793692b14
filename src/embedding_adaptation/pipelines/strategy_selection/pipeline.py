"""The strategy selection pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.strategy_selection.nodes import plot_ranking, rank_families, rank_strategies


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  Kedro's interface
    """Unlabelled texts -> strategies, and families of templates, ranked without labels."""
    return Pipeline(
        [
            Node(
                func=rank_strategies,
                inputs=["base_model", "corpus", "params:strategy_selection", "params:embedder"],
                outputs="strategy_ranking",
                name="rank_strategies_node",
            ),
            Node(
                func=plot_ranking,
                inputs=["strategy_ranking", "params:strategy_selection"],
                outputs="ranking_map",
                name="plot_ranking_node",
            ),
            Node(
                func=rank_families,
                inputs=["base_model", "corpus", "params:strategy_selection", "params:embedder"],
                outputs="family_ranking",
                name="rank_families_node",
            ),
        ],
        tags="strategy_selection",
    )
