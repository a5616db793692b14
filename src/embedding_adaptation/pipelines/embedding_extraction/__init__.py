"""The embedding_extraction pipeline."""

from embedding_adaptation.pipelines.embedding_extraction.pipeline import create_pipeline

__all__ = ["create_pipeline"]
