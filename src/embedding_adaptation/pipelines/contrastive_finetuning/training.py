"""LoRA fine-tuning with in-batch negatives on sentence-transformers' trainer."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from embedding_adaptation.datasets.adapter import TrainedAdapter
from embedding_adaptation.runtime import build_strategy, load_embedder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    import torch
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer
    from transformers import TrainerCallback

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy
    from embedding_adaptation.embedder.training_pass import TrainingPass
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCacheLoss
    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

logger = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Pairs that cannot be trained on; the message says why and what to do."""


def train(
    weights: DecoderWeights,
    train_pairs: pd.DataFrame,
    validation_pairs: pd.DataFrame,
    options: FinetuningOptions,
    embedder_options: EmbedderOptions,
) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train an adapter.

    Each step draws ``batch_size`` pairs without duplicate texts; a pair's negatives are all the other pairs. GradCache bounds memory by
    chunks of tokens, so the number of negatives does not depend on the machine.

    Args:
        weights: The base model.
        train_pairs: ``source_text`` and ``generated_text``.
        validation_pairs: Held-out pairs, likewise.
        options: Fine-tuning options.
        embedder_options: Template, pooling, device and number format.

    Returns:
        The adapter, and its history: ``step``, ``train_loss``, ``validation_loss``, ``validation_accuracy`` (NaN where not measured),
        ``seconds`` since the start.

    Raises:
        TrainingError: If there are fewer pairs than one batch needs, or the loss is no longer a number.

    References:
        - InfoNCE with in-batch negatives: https://arxiv.org/abs/1705.00652
        - GradCache: https://arxiv.org/abs/2101.06983
        - LoRA: https://arxiv.org/abs/2106.09685
    """
    import torch
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import BatchSamplers

    from datasets import Dataset

    if len(train_pairs) < options.batch_size:
        msg = (
            f"there are {len(train_pairs)} training pairs, fewer than one batch of {options.batch_size}; lower "
            "contrastive_finetuning.batch_size, or augment more texts (data_augmentation.cleaning.max_texts, a generator's weight)"
        )
        raise TrainingError(msg)
    torch.manual_seed(options.seed)
    strategy = build_strategy(embedder_options.adapt, embedder_options)
    embedder = load_embedder(weights, embedder_options)
    first_layer = add_adapter(embedder, options)
    model = embedder.sentence_transformer(strategy)
    pairs = Dataset.from_dict(
        {
            "anchor": train_pairs["source_text"].tolist(),
            "positive": train_pairs["generated_text"].tolist(),
            "label": range(len(train_pairs)),
        }
    )
    history = _history_callback(embedder, strategy, validation_pairs, options)
    with tempfile.TemporaryDirectory(prefix="embedding-adaptation-") as scratch:
        loss = batch_loss(embedder, model, strategy, train_pairs, options, first_layer=first_layer, scratch=Path(scratch))
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            dataloader_drop_last=True,
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            learning_rate=options.learning_rate,
            warmup_steps=math.ceil(options.warmup_pairs / options.batch_size),
            lr_scheduler_type="constant_with_warmup" if options.schedule == "constant" else options.schedule,
            max_grad_norm=options.max_gradient_norm or 0.0,
            weight_decay=options.weight_decay,
            optim="adamw_torch",
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            eval_strategy="no",
            report_to=[],
            use_cpu=embedder.backbone.device.type == "cpu",
            seed=options.seed,
            data_seed=options.seed,
        )
        # No texts collected for a model card that is never written.
        model.model_card_data.generate_widget_examples = False
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=pairs, loss=loss, data_collator=_collator(model), callbacks=[history]
        )
        trainer.train()
    embedder.backbone.eval()
    adapter = TrainedAdapter(
        model=cast("PeftModel", embedder.backbone),
        base=weights.card,
        template=strategy.templates[0].pattern,
        pooling=strategy.pooling,
        max_length=embedder.max_length,
        steps=options.steps,
    )
    return adapter, history.frame()


def batch_loss(
    embedder: Embedder,
    model: SentenceTransformer,
    strategy: Strategy,
    train_pairs: pd.DataFrame,
    options: FinetuningOptions,
    *,
    first_layer: int,
    scratch: Path,
) -> GradCacheLoss:
    """The loss of a batch of pairs whose labels are their rows in ``train_pairs``."""
    import torch

    from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCacheLoss
    from embedding_adaptation.pipelines.contrastive_finetuning.info_nce import info_nce
    from embedding_adaptation.pipelines.contrastive_finetuning.lower_states import LowerStates
    from embedding_adaptation.pipelines.contrastive_finetuning.pair_groups import conflicts, pair_groups

    apart = options.false_negatives
    groups = pair_groups(train_pairs, same_source=apart.same_source, near_duplicate=apart.near_duplicate)  # [N, 2]

    def loss(vectors: list[torch.Tensor], labels: torch.Tensor | None) -> torch.Tensor:
        left_out = None
        if labels is not None:
            left_out = torch.from_numpy(conflicts(groups[labels.cpu().numpy()])).to(vectors[0].device)  # [B, B]
        return info_nce(
            vectors[0],
            vectors[1],
            temperature=options.temperature,
            margin=options.margin,
            symmetric=options.symmetric,
            left_out=left_out,
            false_negative_margin=apart.margin,
            dimensions=options.matryoshka_dimensions,
        )

    training_pass = training_pass_of(embedder, strategy, first_layer)
    states = None
    if training_pass.first_layer:
        states = LowerStates(
            training_pass.lower_states,
            memory_mb=options.lower_states_mb,
            disk_mb=options.lower_states_disk_mb,
            folder=scratch,
            batch_tokens=embedder.batch_tokens,
        )
    return GradCacheLoss(
        model,
        training_pass,
        loss,
        chunk_tokens=options.chunk_tokens,
        activation_mb=options.activation_mb,
        lower_states=states,
    )


def training_pass_of(embedder: Embedder, strategy: Strategy, first_layer: int) -> TrainingPass:
    """The fastest pass that gives this model's own vectors: packed rows above the frozen layers, else padded batches through all."""
    from embedding_adaptation.embedder.decoder_pass import UnsupportedDecoderError
    from embedding_adaptation.embedder.training_pass import PaddedPass, TrainingPass

    frame = strategy.templates[0].frame(embedder.tokenizer, embedder.max_length)
    try:
        packed = TrainingPass(embedder.backbone, frame, strategy.pooling, first_layer)
        packed.check([packed.row(range(1, length)) for length in (4, 7, 7)])
    except UnsupportedDecoderError as error:
        logger.warning("training goes the slow way, over padded texts and all layers: %s", error)
        return PaddedPass(embedder.backbone, frame, strategy.pooling)
    return packed


def add_adapter(embedder: Embedder, options: FinetuningOptions) -> int:
    """Put a fresh LoRA adapter on linear layers of the embedder's decoder; only the adapter's weights train.

    Returns:
        The lowest adapted layer, from 0: those below it never change.

    Raises:
        ValueError: If the options name a layer or a module that the model does not have.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    from embedding_adaptation.embedder.decoder_pass import layers_name

    lora = options.lora
    layers = lora.layer_numbers(embedder.layer_count)
    modules = linear_modules(embedder.backbone, layers_name(embedder.backbone), layers)
    if lora.target_modules is not None:
        there = {name.rpartition(".")[2] for name in modules}
        for wanted in lora.target_modules:
            if wanted not in there:
                msg = f"contrastive_finetuning.lora.target_modules names {wanted!r}; the model's layers have {', '.join(sorted(there))}"
                raise ValueError(msg)
        modules = [name for name in modules if name.rpartition(".")[2] in lora.target_modules]
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rank_stabilised,
        use_dora=lora.weight_decomposed,
        target_modules=modules,
    )
    # Adapter weights stay in float32 beside a bfloat16 base: steps of 1e-4 would vanish in bfloat16.
    embedder.backbone = get_peft_model(embedder.backbone, config, autocast_adapter_dtype=True)
    return layers[0]


def linear_modules(decoder: torch.nn.Module, layers_path: str, layers: Sequence[int]) -> list[str]:
    """Names of all linear modules in the given layers."""
    import torch
    from transformers.pytorch_utils import Conv1D

    starts = tuple(f"{layers_path}.{number}." for number in layers)
    return [name for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear | Conv1D) and name.startswith(starts)]


def validation_scores(anchors: np.ndarray, positives: np.ndarray, temperature: float) -> tuple[float, float]:
    """InfoNCE loss and retrieval accuracy at 1 on held-out pairs, each against all the others.

    Args:
        anchors: Unit vectors ``[N, D]``.
        positives: Unit vectors ``[N, D]``, row by row the anchors' positives.
        temperature: Temperature of the loss.

    Returns:
        Mean loss in nats, and the share of anchors whose own positive is the closest.
    """
    import torch

    scores = torch.from_numpy(anchors @ positives.T) / temperature  # [N, N]
    own = torch.arange(len(scores))  # [N]
    loss = torch.nn.functional.cross_entropy(scores, own)
    return float(loss), float((scores.argmax(dim=1) == own).float().mean())


def _history_callback(
    embedder: Embedder, strategy: Strategy, validation_pairs: pd.DataFrame, options: FinetuningOptions
) -> TrainerCallback:
    import dataclasses

    import pandas as pd
    from transformers import TrainerCallback

    unit = dataclasses.replace(strategy, normalise=True)  # the loss compares by cosine, whatever the strategy stores

    class History(TrainerCallback):
        """Writes down losses and, every few steps, scores on the held-out pairs."""

        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []
            self.start = time.perf_counter()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            self.start = time.perf_counter()
            self.rows.append({"step": 0, **self._validate()})

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:  # noqa: ARG002
            if not logs or "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                msg = (
                    f"the training loss is {logs['loss']} at step {state.global_step}; lower contrastive_finetuning.learning_rate "
                    "or set dtype to float32 in conf/base/globals.yml"
                )
                raise TrainingError(msg)
            row = {"step": state.global_step, "train_loss": logs["loss"]}
            if state.global_step % options.validate_every == 0 or state.global_step == options.steps:
                row |= self._validate()
            self.rows.append(row | {"seconds": time.perf_counter() - self.start})

        def _validate(self) -> dict[str, float]:
            training = embedder.backbone.training
            embedder.backbone.eval()
            anchors, positives = (
                embedder.encode(validation_pairs[column].tolist(), unit, progress=False) for column in ("source_text", "generated_text")
            )
            embedder.backbone.train(training)
            loss, accuracy = validation_scores(anchors, positives, options.temperature)
            logger.info("held-out pairs: loss %.3f, accuracy at 1 %.3f", loss, accuracy)
            return {"validation_loss": loss, "validation_accuracy": accuracy}

        def frame(self) -> pd.DataFrame:
            columns = ["step", "train_loss", "validation_loss", "validation_accuracy", "seconds"]
            return pd.DataFrame(self.rows, columns=columns).astype({"step": int})

    return History()


def _collator(model: SentenceTransformer) -> Any:
    """sentence-transformers' collator, with a batch's pairs in order of length.

    The loss does not depend on the order. GradCache cuts a batch into chunks in its order, and a chunk is padded to its longest text: in
    order of length almost no padding is left.
    """
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

    class LengthSortedCollator(SentenceTransformerDataCollator):
        def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
            return super().__call__(sorted(features, key=lambda pair: sum(len(str(text)) for text in pair.values())))

    return LengthSortedCollator(preprocess_fn=model.preprocess)
