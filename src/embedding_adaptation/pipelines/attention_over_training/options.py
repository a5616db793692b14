"""Typed options of attention over training."""

from __future__ import annotations

from pydantic import Field

from embedding_adaptation.options import Options


class OverTrainingOptions(Options):
    """What attention is compared with; texts, layers and spans are those of attention analysis."""

    quality: str = Field("validation_accuracy", description="Column of the training history that says how good a checkpoint is.")
    steps: tuple[int, ...] = Field(
        (), description="Steps of the checkpoints to measure; empty measures all. Step 0, the base model, is always included."
    )
