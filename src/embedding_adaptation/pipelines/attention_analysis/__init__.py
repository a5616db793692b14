"""The attention_analysis pipeline."""

from embedding_adaptation.pipelines.attention_analysis.pipeline import create_pipeline

__all__ = ["create_pipeline"]
