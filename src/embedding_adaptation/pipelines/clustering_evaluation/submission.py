"""mteb's own result files, as accepted by its leaderboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedding_adaptation.datasets.mteb_results import ModelResults, TaskResults

if TYPE_CHECKING:
    import pandas as pd

    from embedding_adaptation.options import EmbedderOptions

OFFICIAL_SEED = 42


def leaderboard_results(cells: pd.DataFrame, model_name: str, embedder_options: EmbedderOptions) -> TaskResults:
    """Results of mteb's own tasks with mteb's own seed.

    Args:
        cells: Scored cells.
        model_name: ``ORGANISATION/NAME``; a strategy's name is appended.
        embedder_options: Definitions of the strategies; only these are submitted, not comparators.
    """
    submitted = cells[cells["official"] & (cells["seed"] == OFFICIAL_SEED) & cells["strategy"].isin(list(embedder_options.every_strategy))]
    models: dict[str, ModelResults] = {}
    for row in submitted.to_dict("records"):
        title = f"{model_name}-{row['strategy']}"
        strategy = embedder_options.every_strategy[row["strategy"]]
        settings = {
            "vectors": row["vectors"],
            "weights": strategy.weights,
            "templates": [embedder_options.template(name).pattern for name in strategy.template],
            "pooling": strategy.pooling,
            "layers": list(strategy.layers),
            "after": strategy.after.title,
            "max_length": embedder_options.max_length,
        }
        models.setdefault(title, ModelResults(title, embedder_options.max_length, settings)).tasks[row["task"]] = row["mteb_result"]
    return TaskResults(tuple(models.values()))
