"""Typed options of contrastive fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from embedding_adaptation.options import Options

LayersName = Literal["all", "upper_half", "upper_third"]


class LoraOptions(Options):
    """The low-rank adapter."""

    rank: int = Field(16, ge=1, description="Rank of the update; size and capacity grow with it.")
    alpha: int = Field(32, ge=1, description="The update is scaled by alpha / rank, rank-stabilised by alpha / sqrt(rank).")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input.")
    layers: LayersName | tuple[int, ...] = Field(
        "all", description="Adapted layers, by name or number from 0; negative ones count from the end."
    )
    target_modules: tuple[str, ...] | None = Field(None, min_length=1, description="Names of linear modules to adapt; null takes all.")
    rank_stabilised: bool = Field(False, description="rsLoRA: a scale that suits high ranks.")
    weight_decomposed: bool = Field(False, description="DoRA: magnitude and direction apart; slower.")

    def layer_numbers(self, count: int) -> list[int]:
        """The adapted layers of a decoder with as many layers, from 0 and in order.

        Raises:
            ValueError: If a layer is not there.
        """
        if isinstance(self.layers, str):
            start = {"all": 0, "upper_half": count // 2, "upper_third": count - count // 3}[self.layers]
            return list(range(min(start, count - 1), count))
        for number in self.layers:
            if not -count <= number < count:
                msg = f"contrastive_finetuning.lora.layers names layer {number}; the model has layers 0 to {count - 1}"
                raise ValueError(msg)
        return sorted({number % count for number in self.layers})


class FalseNegativesOptions(Options):
    """Which other pairs of a batch are no negatives."""

    same_source: bool = Field(True, description="Pairs that come from the same text of the corpus.")
    near_duplicate: float | None = Field(
        0.8, gt=0.0, le=1.0, description="Pairs with texts whose character 5-grams overlap more than this (Jaccard); null looks at none."
    )
    margin: float | None = Field(
        None, ge=0.0, description="Texts whose cosine exceeds the positive's by more than this under the trained model; null keeps all."
    )


class FinetuningOptions(Options):
    """All options of contrastive fine-tuning."""

    steps: int = Field(ge=1, description="Optimiser steps, at most.")
    batch_size: int = Field(64, ge=2, description="Pairs in a step; each pair's negatives are the other pairs.")
    chunk_tokens: int = Field(1024, ge=8, description="Tokens whose activations are computed at once: memory and speed, not results.")
    activation_mb: int = Field(
        1536, ge=0, description="Memory for activations that need not be computed twice (GradCache): speed, not results."
    )
    lower_states_mb: int = Field(1024, ge=0, description="Memory for what frozen lower layers make of the texts: speed, not results.")
    lower_states_disk_mb: int = Field(8192, ge=0, description="Disk space for what of it does not fit.")
    learning_rate: float = Field(2e-4, gt=0.0, description="Highest learning rate.")
    warmup_pairs: int = Field(0, ge=0, description="Pairs over which the learning rate rises.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="How the learning rate falls after that.")
    max_gradient_norm: float | None = Field(1.0, gt=0.0, description="Longer gradients are cut to this; null leaves them.")
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW's weight decay.")
    temperature: float = Field(0.05, gt=0.0, description="Temperature of the InfoNCE loss; lower looks harder at close negatives.")
    symmetric: bool = Field(True, description="Also let each positive find its anchor.")
    margin: float = Field(0.0, ge=0.0, lt=2.0, description="By how much a positive's cosine must exceed the others'.")
    matryoshka_dimensions: tuple[int, ...] = Field(
        (), description="Train vectors cut to these dimensions as well; empty trains whole ones."
    )
    false_negatives: FalseNegativesOptions = FalseNegativesOptions()
    lora: LoraOptions = LoraOptions()
    validation_share: float = Field(0.1, gt=0.0, lt=1.0, description="Share of the source texts whose pairs are held out.")
    validate_every: int = Field(4, ge=1, description="Steps between two looks at the held-out pairs.")
    seed: int = Field(ge=0, description="Seed of split, adapter, order and dropout.")
