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
    """The model has no such layer; the message names the option."""


class LoraOptions(Options):
    """The low-rank adapter."""

    rank: int = Field(16, ge=1, description="Rank of the update; size and capacity grow with it.")
    alpha: int = Field(32, ge=1, description="The update is scaled by alpha / rank, or alpha / sqrt(rank) if rank_stabilised.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input.")
    layers: LayersName | tuple[int, ...] = Field(
        "upper_half", description="Layers to adapt: a name, or numbers from 0; negative ones count from the end."
    )
    target_modules: tuple[str, ...] | None = Field(None, min_length=1, description="Names of the linear modules to adapt; null adapts all.")
    rank_stabilised: bool = Field(False, description="rsLoRA: a scaling that suits high ranks.")
    weight_decomposed: bool = Field(False, description="DoRA: train magnitude and direction separately; slower.")

    def layer_numbers(self, count: int) -> list[int]:
        """The adapted layers of a decoder with ``count`` layers, from 0 and in order.

        Raises:
            LayerError: If a layer does not exist.
        """
        if isinstance(self.layers, str):
            start = {"all": 0, "upper_half": count // 2, "upper_third": count - count // 3}[self.layers]
            return list(range(min(start, count - 1), count))
        for number in self.layers:
            if not -count <= number < count:
                msg = f"unknown layer {number} in contrastive_finetuning.lora.layers; choose from 0 to {count - 1}"
                raise LayerError(msg)
        return sorted({number % count for number in self.layers})


class FalseNegativesOptions(Options):
    """Which other pairs of a batch do not count as negatives."""

    same_source: bool = Field(True, description="Pairs that come from the same text of the corpus.")
    near_duplicate: float | None = Field(
        0.8, gt=0.0, le=1.0, description="Pairs with texts whose character 5-grams overlap more than this (Jaccard); null skips this check."
    )
    margin: float | None = Field(
        None, ge=0.0, description="Texts whose cosine under the trained model exceeds the positive's by more than this; null keeps all."
    )
    teacher: Literal["leave_out", "weight"] | None = Field(
        None,
        description="Texts of the anchor's kind according to embedder.teacher: leave_out those that are more likely of its kind than "
        "not, or weight all by how likely they are not; null asks no teacher.",
    )


class StoppingOptions(Options):
    """Which step's adapter is kept, by evaluation on held-out pairs and unlabelled texts."""

    criterion: Criterion | None = Field(
        "validation_loss", description="Keep the step with the best value of this, and stop early; null keeps the last step."
    )
    patience: int = Field(3, ge=1, description="Stop after this many evaluations without a better value.")
    texts: int = Field(200, ge=20, description="Number of unlabelled corpus texts to evaluate.")
    pairs: int = Field(200, ge=2, description="Maximum number of held-out pairs to evaluate.")
    reference: str | None = Field(
        "consensus",
        description="Strategy of the base weights that neighbour_agreement compares with; null omits it.",
    )

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if self.criterion == "neighbour_agreement" and self.reference is None:
            msg = "criterion neighbour_agreement needs a reference; set it to the name of a strategy of the base weights"
            raise ValueError(msg)
        return self


class RoundsOptions(Options):
    """Neighbour pairs mined again from the adapted embedder."""

    every: int = Field(ge=1, description="Steps between rounds of mining.")
    texts: int = Field(5000, ge=20, description="Maximum number of corpus texts to mine.")
    neighbours: int = Field(3, ge=1, description="Nearest neighbours to consider; a pair must be among each other's.")
    min_similarity: float = Field(0.3, ge=-1.0, le=1.0, description="Leave out pairs less similar than this.")
    max_pairs_per_text: int = Field(3, ge=1, description="Maximum number of pairs per text.")
    near_duplicate: float = Field(0.9, gt=0.0, le=1.0, description="Do not pair texts with more character overlap than this.")
    min_change: float = Field(0.05, ge=0.0, le=1.0, description="Stop mining when a smaller share of the pairs is new.")
    min_rank: float = Field(
        0.5, ge=0.0, le=1.0, description="Stop mining when the effective rank (RankMe) falls below this share of its initial value."
    )


class HardNegativesOptions(Options):
    """Texts of the corpus that are close to an anchor and not its positive, mined once, before the first step or a new round."""

    texts: int = Field(5000, ge=20, description="Maximum number of corpus texts to draw candidates from.")
    skip: int = Field(10, ge=0, description="Number of closest texts to skip: they are likely positives.")
    within: int = Field(100, ge=1, description="Draw negatives from this many closest texts.")
    relative_margin: float = Field(
        0.05, ge=0.0, le=1.0, description="A negative must be less similar than the positive by at least this share."
    )


class ConsensusOptions(Options):
    """The consensus loss: what the teacher (``embedder.teacher``) says of a batch's texts is its target."""

    texts: int = Field(2000, ge=8, description="Maximum number of corpus texts to learn from.")
    perplexity: float | None = Field(
        None, ge=1.0, description="Effective number of neighbours of a text in a batch; null takes the granularity's."
    )
    near: int = Field(3, ge=0, description="Nearest neighbours that come into a batch with each text drawn.")
    pair_weight: float = Field(0.5, ge=0.0, le=1.0, description="Share of a text's target for its partners in generated or given pairs.")


class InterpolationOptions(Options):
    """How much of the trained adapter is kept: the largest scale at which texts' groups agree with their characters as much as ever."""

    scales: tuple[float, ...] = Field((0.25, 0.5, 0.75, 1.0), min_length=1, description="Shares of the adapter to try, beside none of it.")
    tolerance: float = Field(0.02, ge=0.0, description="Differences of agreement (adjusted mutual information) that do not count.")

    @model_validator(mode="after")
    def _check_scales(self) -> Self:
        wrong = [scale for scale in self.scales if not 0 < scale <= 1]
        if wrong:
            msg = f"scale {wrong[0]:g} is not between 0 (the base model, which is always tried) and 1 (the whole adapter); remove it"
            raise ValueError(msg)
        return self


class FinetuningOptions(Options):
    """All options of contrastive fine-tuning."""

    loss: Literal["consensus", "info_nce"] = Field("consensus", description="Agree with a teacher, or tell positives from negatives.")
    consensus: ConsensusOptions = ConsensusOptions()
    start: str | None = Field(None, min_length=1, description="Folder of an adapter to start from; null starts from the base model.")
    steps: int = Field(ge=1, description="Maximum number of optimiser steps.")
    batch_size: int = Field(
        96, ge=2, description="Texts per step with loss consensus; with info_nce, pairs, whose negatives are the others."
    )
    chunk_tokens: int = Field(1024, ge=8, description="Tokens per forward pass with gradients; affects memory and speed, not results.")
    activation_mb: int = Field(
        1536, ge=0, description="Memory for activations kept between GradCache's passes; affects speed, not results."
    )
    lower_states_mb: int = Field(1024, ge=0, description="Memory for cached outputs of frozen lower layers; affects speed, not results.")
    lower_states_disk_mb: int = Field(8192, ge=0, description="Disk space for outputs that do not fit into that memory.")
    learning_rate: float = Field(2e-4, gt=0.0, description="Highest learning rate.")
    warmup_pairs: int = Field(0, ge=0, description="Pairs over which the learning rate warms up.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="How the learning rate decays after warm-up.")
    max_gradient_norm: float | None = Field(1.0, gt=0.0, description="Clip the gradient norm to this; null does not clip.")
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW's weight decay.")
    temperature: float = Field(0.05, gt=0.0, description="Temperature of the InfoNCE loss; lower values stress close negatives.")
    symmetric: bool = Field(True, description="Also rank anchors for each positive.")
    margin: float = Field(0.0, ge=0.0, lt=2.0, description="Margin by which a positive's cosine must exceed the others'.")
    matryoshka_dimensions: tuple[int, ...] = Field(
        (), description="Also train vectors truncated to these dimensions; empty trains full vectors only."
    )
    false_negatives: FalseNegativesOptions = FalseNegativesOptions()
    hard_negatives: HardNegativesOptions | None = Field(
        None, description="Hard negatives, mined once before training; null trains without."
    )
    rounds: RoundsOptions | None = Field(None, description="Mine neighbour pairs again during training; null keeps the pairs.")
    lora: LoraOptions = LoraOptions()
    four_bit: bool = Field(False, description="Keep the frozen base in 4 bits (QLoRA); needs CUDA and the extra 'quantised'.")
    devices: int | None = Field(
        1,
        ge=1,
        description="Processes that share each batch and its negatives, one per device: on this machine, or with embedder.cluster on that "
        "cluster; null: as many as there are GPUs, or else one (on a cluster one per machine).",
    )
    stopping: StoppingOptions = StoppingOptions()
    interpolation: InterpolationOptions | None = Field(
        InterpolationOptions(), description="Keep only as much of the adapter as helps, judged on stopping.texts; null keeps all of it."
    )
    validation_share: float = Field(0.1, gt=0.0, lt=1.0, description="Share of the source texts whose pairs are held out.")
    validate_every: int = Field(4, ge=1, description="Steps between evaluations on held-out pairs.")
    seed: int = Field(ge=0, description="Seed of split, adapter, order and dropout.")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.devices is not None and self.batch_size % self.devices:
            msg = f"batch_size ({self.batch_size}) is not divisible by {self.devices} devices; choose a multiple"
            raise ValueError(msg)
        if self.four_bit and self.lora.weight_decomposed:
            msg = "four_bit and lora.weight_decomposed cannot be combined; choose one"
            raise ValueError(msg)
        return self

    @property
    def asks_teacher(self) -> bool:
        """Whether the loss asks the teacher (``embedder.teacher``)."""
        return self.loss == "consensus" or self.false_negatives.teacher is not None

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that affect the result: all except names and those that only affect memory and time."""
        return self.model_dump(
            mode="json",
            exclude={
                "start": True,  # its weights count, not its place
                "consensus": {"perplexity"} if self.loss == "consensus" else True,  # the job resolves it
                "chunk_tokens": True, "activation_mb": True, "lower_states_mb": True, "lower_states_disk_mb": True, "devices": True,
                "stopping": {"reference"}, "interpolation": True,
            },
        )  # fmt: skip

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002
        """Check that the reference strategy exists; see :meth:`Options.check`."""
        self.check_reference(embedder)

    def check_reference(self, embedder: EmbedderOptions) -> None:
        """Check that the reference strategy exists.

        Raises:
            ValueError: If it is not, or is not one of the base weights without after-processing.
        """
        usable = embedder.undistilled_base
        if self.asks_teacher and embedder.teacher.strategy not in usable:
            asking, otherwise = (
                ("loss consensus", "loss info_nce") if self.loss == "consensus" else ("false_negatives.teacher", "set that to null")
            )
            msg = (
                f"unknown strategy {embedder.teacher.strategy!r} in embedder.teacher, which contrastive_finetuning.{asking} learns "
                f"from; choose one of the base weights that is not distilled itself ({', '.join(usable) or 'there is none'}), "
                f"or {otherwise}"
            )
            raise ValueError(msg)
        if self.stopping.reference is not None and self.stopping.reference not in usable:
            msg = (
                f"unknown strategy {self.stopping.reference!r} in contrastive_finetuning.stopping.reference; choose one of the base "
                f"weights that is not distilled ({', '.join(usable) or 'there is none'}), or null to leave out neighbour_agreement"
            )
            raise ValueError(msg)
