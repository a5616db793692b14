"""The model_export pipeline."""

from embedding_adaptation.pipelines.model_export.pipeline import create_pipeline

__all__ = ["create_pipeline"]
