"""Typed options of contrastive fine-tuning."""

from __future__ import annotations

from pydantic import Field

from embedding_adaptation.options import Options


class LoraOptions(Options):
    """The low-rank adapter."""

    rank: int = Field(16, ge=1, description="Rank of the update; size and capacity grow with it.")
    alpha: int = Field(32, ge=1, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input.")


class FinetuningOptions(Options):
    """All options of contrastive fine-tuning."""

    steps: int = Field(ge=1, description="Optimiser steps.")
    batch_size: int = Field(64, ge=2, description="Pairs in a step; each pair's negatives are the other pairs.")
    chunk_tokens: int = Field(512, ge=8, description="Tokens whose activations are kept at once (GradCache): memory, not results.")
    learning_rate: float = Field(2e-4, gt=0.0, description="Highest learning rate.")
    warmup_share: float = Field(0.0, ge=0.0, le=1.0, description="Share of the steps in which the learning rate rises.")
    temperature: float = Field(0.05, gt=0.0, description="Temperature of the InfoNCE loss; lower looks harder at close negatives.")
    lora: LoraOptions = LoraOptions()
    validation_share: float = Field(0.1, gt=0.0, lt=1.0, description="Share of the source texts whose pairs are held out.")
    validate_every: int = Field(4, ge=1, description="Steps between two looks at the held-out pairs.")
    seed: int = Field(ge=0, description="Seed of split, adapter, order and dropout.")
