"""Typed options of contrastive fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from embedding_adaptation.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedding_adaptation.options import EmbedderOptions

Criterion = Literal[
    "validation_loss", "validation_accuracy", "alignment", "uniformity", "effective_rank", "neighbour_agreement", "text_attention"
]
LayersName = Literal["all", "upper_half", "upper_third"]


class LayerError(ValueError):
    """A layer that the model does not have; the message names the option."""


class LoraOptions(Options):
    """The low-rank adapter."""

    rank: int = Field(16, ge=1, description="Rank of the update; size and capacity grow with it.")
    alpha: int = Field(32, ge=1, description="The update is scaled by alpha / rank, rank-stabilised by alpha / sqrt(rank).")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input.")
    layers: LayersName | tuple[int, ...] = Field(
        "upper_half", description="Adapted layers, by name or number from 0; negative ones count from the end."
    )
    target_modules: tuple[str, ...] | None = Field(None, min_length=1, description="Names of linear modules to adapt; null takes all.")
    rank_stabilised: bool = Field(False, description="rsLoRA: a scale that suits high ranks.")
    weight_decomposed: bool = Field(False, description="DoRA: magnitude and direction apart; slower.")

    def layer_numbers(self, count: int) -> list[int]:
        """The adapted layers of a decoder with as many layers, from 0 and in order.

        Raises:
            LayerError: If a layer is not there.
        """
        if isinstance(self.layers, str):
            start = {"all": 0, "upper_half": count // 2, "upper_third": count - count // 3}[self.layers]
            return list(range(min(start, count - 1), count))
        for number in self.layers:
            if not -count <= number < count:
                msg = f"contrastive_finetuning.lora.layers names layer {number}; the model has layers 0 to {count - 1}"
                raise LayerError(msg)
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


class StoppingOptions(Options):
    """Which step's adapter is kept, judged on held-out pairs and unlabelled texts."""

    criterion: Criterion | None = Field(
        "validation_loss", description="The step where this is best is kept, and training ends early; null keeps the last step."
    )
    patience: int = Field(3, ge=1, description="Training ends after as many looks without a better value.")
    texts: int = Field(200, ge=20, description="Unlabelled texts of the corpus that are looked at.")
    pairs: int = Field(200, ge=2, description="Held-out pairs that are looked at, at most.")
    reference: str | None = Field(
        "prompted_values",
        description="Strategy of the base weights that neighbour_agreement compares with; null leaves it out.",
    )

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if self.criterion == "neighbour_agreement" and self.reference is None:
            msg = "criterion neighbour_agreement needs a reference: the name of a strategy of the base weights"
            raise ValueError(msg)
        return self


class RoundsOptions(Options):
    """Neighbour pairs mined again from the adapted embedder."""

    every: int = Field(ge=1, description="Steps after which pairs are mined again.")
    texts: int = Field(5000, ge=20, description="Texts of the corpus that are mined, at most.")
    neighbours: int = Field(3, ge=1, description="How many nearest neighbours are looked at; both must be among each other's.")
    min_similarity: float = Field(0.3, ge=-1.0, le=1.0, description="Pairs that are less similar are left out.")
    max_pairs_per_text: int = Field(3, ge=1, description="In how many pairs a text may stand.")
    near_duplicate: float = Field(0.9, gt=0.0, le=1.0, description="Texts whose characters agree more than this are kept apart.")
    min_change: float = Field(0.05, ge=0.0, le=1.0, description="Mining ends when a smaller share of the pairs is new.")
    min_rank: float = Field(
        0.5, ge=0.0, le=1.0, description="Mining ends when the effective rank (RankMe) falls below this share of the start's."
    )


class HardNegativesOptions(Options):
    """Texts of the corpus that are close to an anchor and not its positive, mined once, before the first step or a new round."""

    texts: int = Field(5000, ge=20, description="Texts of the corpus that are candidates, at most.")
    skip: int = Field(10, ge=0, description="The closest texts are skipped: they are likely positives.")
    within: int = Field(100, ge=1, description="Negatives are drawn from as many closest texts.")
    relative_margin: float = Field(0.05, ge=0.0, le=1.0, description="A negative is less similar than the positive by this share at least.")


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
    hard_negatives: HardNegativesOptions | None = Field(None, description="Mined once, before training; null trains without.")
    rounds: RoundsOptions | None = Field(None, description="Mine neighbour pairs again while training; null keeps the pairs.")
    lora: LoraOptions = LoraOptions()
    four_bit: bool = Field(False, description="Keep the frozen base in 4 bits (QLoRA); needs CUDA and the extra 'quantised'.")
    devices: int = Field(1, ge=1, description="Processes on this machine, one a device, which share each batch and its negatives.")
    stopping: StoppingOptions = StoppingOptions()
    validation_share: float = Field(0.1, gt=0.0, lt=1.0, description="Share of the source texts whose pairs are held out.")
    validate_every: int = Field(4, ge=1, description="Steps between two looks at the held-out pairs.")
    seed: int = Field(ge=0, description="Seed of split, adapter, order and dropout.")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.batch_size % self.devices:
            msg = f"batch_size ({self.batch_size}) does not divide among {self.devices} devices; choose a multiple"
            raise ValueError(msg)
        if self.four_bit and self.lora.weight_decomposed:
            msg = "four_bit and lora.weight_decomposed do not go together; choose one"
            raise ValueError(msg)
        return self

    @property
    def deciding(self) -> dict[str, Any]:
        """What the result depends on: everything but names, and what only costs or saves memory and time."""
        return self.model_dump(
            mode="json",
            exclude={
                "chunk_tokens": True, "activation_mb": True, "lower_states_mb": True, "lower_states_disk_mb": True, "devices": True,
                "stopping": {"reference"},
            },
        )  # fmt: skip

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002
        """Check that the strategy which neighbours are compared with exists; see :meth:`Options.check`."""
        self.check_reference(embedder)

    def check_reference(self, embedder: EmbedderOptions) -> None:
        """Check that the strategy which neighbours are compared with is among the embedder's.

        Raises:
            ValueError: If it is not, or is not one of the base weights without after-processing.
        """
        usable = [name for name, strategy in embedder.every_strategy.items() if strategy.weights == "base" and not strategy.after.title]
        if self.stopping.reference is not None and self.stopping.reference not in usable:
            msg = (
                f"unknown strategy {self.stopping.reference!r} in contrastive_finetuning.stopping.reference; choose one of the base "
                f"weights without after-processing ({', '.join(usable) or 'there is none'}), or null to leave out neighbour_agreement"
            )
            raise ValueError(msg)
