"""The attention_over_training pipeline."""

from embedding_adaptation.pipelines.attention_over_training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
