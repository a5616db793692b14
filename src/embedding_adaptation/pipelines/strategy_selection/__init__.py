"""The strategy_selection pipeline."""

from embedding_adaptation.pipelines.strategy_selection.pipeline import create_pipeline

__all__ = ["create_pipeline"]
