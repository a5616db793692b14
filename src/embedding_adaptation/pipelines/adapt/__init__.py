"""The adapt pipeline."""

from embedding_adaptation.pipelines.adapt.pipeline import create_pipeline

__all__ = ["create_pipeline"]
