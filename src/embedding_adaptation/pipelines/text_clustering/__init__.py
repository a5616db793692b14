"""The text_clustering pipeline."""

from embedding_adaptation.pipelines.text_clustering.pipeline import create_pipeline

__all__ = ["create_pipeline"]
