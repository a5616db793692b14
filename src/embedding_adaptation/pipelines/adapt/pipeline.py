"""What people run who have texts and no labels: from the texts to a model, a verdict, and themes."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from embedding_adaptation.pipelines import (
    adaptation_page,
    adaptation_verdict,
    contrastive_finetuning,
    data_augmentation,
    model_export,
    text_clustering,
)


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  Kedro's interface
    """Corpus -> adapter, verdict, exported model, clusters of the corpus, and a page about all of it."""
    # Alone, text_clustering takes the adapter of an earlier run, if there is one; here it waits for this run's.
    clustering = Pipeline(text_clustering.create_pipeline(), inputs={"trained_adapter": "adapter"})
    parts = (data_augmentation, contrastive_finetuning, adaptation_verdict, model_export, adaptation_page)
    return sum((part.create_pipeline() for part in parts), start=clustering)
