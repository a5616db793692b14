"""The clustering_evaluation pipeline."""

from embedding_adaptation.pipelines.clustering_evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
