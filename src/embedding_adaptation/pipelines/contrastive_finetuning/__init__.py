"""The contrastive_finetuning pipeline."""

from embedding_adaptation.pipelines.contrastive_finetuning.pipeline import create_pipeline

__all__ = ["create_pipeline"]
