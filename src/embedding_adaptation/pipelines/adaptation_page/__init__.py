"""The adaptation_page pipeline."""

from embedding_adaptation.pipelines.adaptation_page.pipeline import create_pipeline

__all__ = ["create_pipeline"]
