"""The adaptation_verdict pipeline."""

from embedding_adaptation.pipelines.adaptation_verdict.pipeline import create_pipeline

__all__ = ["create_pipeline"]
