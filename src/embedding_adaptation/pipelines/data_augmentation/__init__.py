"""The data_augmentation pipeline."""

from embedding_adaptation.pipelines.data_augmentation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
