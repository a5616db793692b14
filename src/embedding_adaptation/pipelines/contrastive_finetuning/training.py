"""LoRA fine-tuning with in-batch negatives on sentence-transformers' trainer."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.datasets.adapter import TrainedAdapter
from embedding_adaptation.embedder.decoder_pass import decoder_layers
from embedding_adaptation.embedder.storage import strategy_to_dict
from embedding_adaptation.pipelines.contrastive_finetuning.batches import BatchError, PairBatches
from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import Checkpoints, fingerprint_of
from embedding_adaptation.pipelines.contrastive_finetuning.cost import joules, layer_weights, operations
from embedding_adaptation.pipelines.contrastive_finetuning.judging import Judge, best_step, is_exhausted
from embedding_adaptation.pipelines.contrastive_finetuning.pair_groups import conflicts, pair_groups
from embedding_adaptation.runtime import build_strategy, load_embedder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import Checkpoint
    from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCacheLoss
    from embedding_adaptation.pipelines.contrastive_finetuning.lower_states import LowerStates
    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

logger = logging.getLogger(__name__)

HISTORY_COLUMNS = (
    "step", "train_loss", "validation_loss", "validation_accuracy", "alignment", "uniformity", "effective_rank", "neighbour_agreement",
    "text_attention", "gradient_norm", "learning_rate", "pairs", "tokens", "operations", "joules", "seconds",
)  # fmt: skip
_ATTENTION_TEXTS = 32
_ROUND_PAIRS = "pairs.parquet"


class AdapterOptionsError(ValueError):
    """Options of the adapter that the model does not allow; the message names them."""


class TrainingError(RuntimeError):
    """Pairs that cannot be trained on; the message says why and what to do."""


def train(
    weights: DecoderWeights,
    train_pairs: pd.DataFrame,
    validation_pairs: pd.DataFrame,
    options: FinetuningOptions,
    embedder_options: EmbedderOptions,
    *,
    corpus: pd.DataFrame | None = None,
    checkpoints: Path | None = None,
) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train an adapter, and keep the step that the stopping criterion finds best.

    Each step draws ``batch_size`` pairs that may stand together; a pair's negatives are all the others. GradCache bounds memory by chunks
    of tokens, so the number of negatives does not depend on the machine. Where a run with the same pairs, options and weights was
    interrupted, it goes on from its last checkpoint.

    Args:
        weights: The base model.
        train_pairs: ``source_text`` and ``generated_text``; ``source_id``, ``other_id`` and ``generator`` where known.
        validation_pairs: Held-out pairs, likewise.
        options: Fine-tuning options.
        embedder_options: Template, pooling, device and number format.
        corpus: ``id`` and ``text``: texts without labels, to judge by and to mine from; ``None`` takes the held-out pairs' own.
        checkpoints: Directory of checkpoints; ``None`` keeps them for the length of the call only.

    Returns:
        The adapter, and its history: a row a step with the columns of :data:`HISTORY_COLUMNS` (NaN where not measured) and ``chosen``.

    Raises:
        TrainingError: If there are fewer pairs than one batch needs, the loss is no longer a number, or something that the options ask for
            is not there.
        BatchError: If not enough pairs may stand in one batch.

    References:
        - InfoNCE with in-batch negatives: https://arxiv.org/abs/1705.00652
        - GradCache: https://arxiv.org/abs/2101.06983
        - LoRA: https://arxiv.org/abs/2106.09685
    """
    check(train_pairs, options, corpus)
    if options.devices > 1:
        from embedding_adaptation.pipelines.contrastive_finetuning.devices import train_on_devices

        return train_on_devices(weights, train_pairs, validation_pairs, options, embedder_options, corpus=corpus, checkpoints=checkpoints)
    return train_here(weights, train_pairs, validation_pairs, options, embedder_options, corpus=corpus, checkpoints=checkpoints)


def check(train_pairs: pd.DataFrame, options: FinetuningOptions, corpus: pd.DataFrame | None) -> None:
    """Check, before anything is loaded, what can be checked.

    Raises:
        TrainingError: If there are too few pairs, or the options ask for what is not there.
        BatchError: If not enough pairs may stand in one batch.
    """
    if len(train_pairs) < options.batch_size:
        msg = (
            f"there are {len(train_pairs)} training pairs, fewer than one batch of {options.batch_size}; lower "
            "contrastive_finetuning.batch_size, or augment more texts (data_augmentation.cleaning.max_texts, a generator's weight)"
        )
        raise TrainingError(msg)
    if corpus is None and (options.rounds is not None or options.hard_negatives is not None):
        msg = "contrastive_finetuning.rounds and hard_negatives take their texts from a corpus, and none was given"
        raise TrainingError(msg)
    if options.four_bit:
        _check_four_bit()
    batches_of(_groups(train_pairs, options), options, options.steps)


def train_here(
    weights: DecoderWeights,
    train_pairs: pd.DataFrame,
    validation_pairs: pd.DataFrame,
    options: FinetuningOptions,
    embedder_options: EmbedderOptions,
    *,
    corpus: pd.DataFrame | None = None,
    checkpoints: Path | None = None,
) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train in this process; see :func:`train`."""
    import torch

    torch.manual_seed(options.seed)
    strategy = build_strategy(embedder_options.adapt, embedder_options)
    embedder = load_embedder(weights, embedder_options, four_bit=options.four_bit)
    reference = _reference(embedder, corpus, validation_pairs, options, embedder_options)
    first_layer = add_adapter(embedder, options)
    for config in cast("PeftModel", embedder.backbone).peft_config.values():
        config.base_model_name_or_path = weights.card.source  # and not the path of this machine's copy
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=scratch_prefix())))
        fingerprint = fingerprint_of(
            {
                "options": options.deciding,
                "weights": weights.card.sha256,
                "template": strategy.templates[0].pattern,
                "pooling": strategy.pooling,
                "max_length": embedder.max_length,
                "dtype": str(embedder.backbone.dtype),
            },
            {"train": train_pairs, "validation": validation_pairs} | ({} if corpus is None else {"corpus": corpus[["text"]]}),
        )
        run = _Run(
            embedder,
            strategy,
            train_pairs,
            options,
            corpus=corpus,
            judge=_judge(embedder, strategy, corpus, validation_pairs, options, reference),
            checkpoints=Checkpoints(checkpoints or scratch, fingerprint),
            scratch=scratch,
            first_layer=first_layer,
        )
        history = run.run()
    embedder.backbone.eval()
    adapter = TrainedAdapter(
        model=cast("PeftModel", embedder.backbone),
        base=weights.card,
        template=strategy.templates[0].pattern,
        pooling=strategy.pooling,
        max_length=embedder.max_length,
        steps=int(history.loc[history["chosen"], "step"].iloc[0]),
        strategy=strategy_to_dict(strategy),
    )
    return adapter, history


class _Run:
    """One training run: rounds of the trainer, from the last checkpoint on."""

    def __init__(
        self,
        embedder: Embedder,
        strategy: Strategy,
        pairs: pd.DataFrame,
        options: FinetuningOptions,
        *,
        corpus: pd.DataFrame | None,
        judge: Judge,
        checkpoints: Checkpoints,
        scratch: Path,
        first_layer: int,
    ) -> None:
        self.embedder, self.strategy, self.options = embedder, strategy, options
        self.given = self.pairs = pairs
        self.corpus, self.judge, self.checkpoints, self.scratch, self.first_layer = corpus, judge, checkpoints, scratch, first_layer
        self.adapted = cast("PeftModel", embedder.backbone)
        self.initial = {name: weight.detach().clone() for name, weight in self.adapted.named_parameters() if weight.requires_grad}
        self.model = embedder.sentence_transformer(strategy)
        self.rows: list[dict[str, float]] = []
        self.before = 0.0  # seconds of earlier processes
        self.start = time.perf_counter()
        self.first_step = 0  # of the round
        self.loss: GradCacheLoss | None = None
        self.lower_states: LowerStates | None = None
        self.meter = joules()

    def run(self) -> pd.DataFrame:
        """Train to the end, put the best step's weights into the model, and return the history."""
        import pandas as pd

        checkpoint = self.checkpoints.last()
        if checkpoint is not None:
            self._go_on(checkpoint)
        while (done := self.done) < self.options.steps and not self._is_exhausted():
            if self.options.rounds is not None and done == self.first_step + self.options.rounds.every:
                self._next_round(done)
                checkpoint = None
            self._round(checkpoint)
            checkpoint = None
        chosen = self._take(best_step(self.rows, self.options.stopping.criterion))
        logger.info("kept step %d of %d", chosen, self.done)
        history = pd.DataFrame(self.rows, columns=list(HISTORY_COLUMNS)).astype({"step": int})
        return history.assign(chosen=history["step"] == chosen)

    @property
    def done(self) -> int:
        """Steps behind the present weights."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    def _is_exhausted(self) -> bool:
        return is_exhausted(self.rows, self.options.stopping.criterion, self.options.stopping.patience)

    def _go_on(self, checkpoint: Checkpoint) -> None:
        import pandas as pd

        from embedding_adaptation.pipelines.contrastive_finetuning.trainer import load_adapter

        state = json.loads((checkpoint.folder / "state.json").read_text(encoding="utf-8"))
        self.rows, self.before, self.first_step = state["rows"], float(state["seconds"]), int(state["first_step"])
        load_adapter(self.adapted, checkpoint.folder)
        mined = checkpoint.folder / _ROUND_PAIRS
        if mined.exists():
            self.pairs = pd.read_parquet(mined)
        logger.info("training goes on from step %d of %d", checkpoint.step, self.options.steps)

    def _take(self, step: int) -> int:
        """Put a step's weights into the model; returns the step whose weights are there."""
        import torch

        from embedding_adaptation.pipelines.contrastive_finetuning.trainer import load_adapter

        if step == self.done and step:
            return step
        if step == 0:
            logger.warning("no step is better than none by %s: the adapter changes nothing", self.options.stopping.criterion)
            with torch.no_grad():
                for name, weight in self.adapted.named_parameters():
                    if name in self.initial:
                        weight.copy_(self.initial[name])
            return 0
        for checkpoint in self.checkpoints.all():
            if checkpoint.step == step:
                load_adapter(self.adapted, checkpoint.folder)
                return step
        logger.warning("step %d was best, but its checkpoint could not be written; the last step is kept", step)
        return self.done

    def _next_round(self, step: int) -> None:
        """Mine pairs again; the old ones stay where that makes no sense any more."""
        import numpy as np

        from embedding_adaptation.pipelines.contrastive_finetuning.rounds import NeighbourRounds
        from embedding_adaptation.vectors.criteria import effective_rank

        rounds = self.options.rounds
        assert rounds is not None  # noqa: S101  asked before
        assert self.corpus is not None  # noqa: S101  checked before
        self.first_step = step
        texts = self.corpus.head(rounds.texts)
        loss = self._loss()
        now = np.concatenate([loss.encode(part).cpu().numpy() for part in _windows(texts["text"].tolist())])  # [N, D]
        with self.adapted.disable_adapter():
            before = np.concatenate([loss.encode(part).cpu().numpy() for part in _windows(texts["text"].tolist())])  # [N, D]
        mined = NeighbourRounds(texts, self.given, self.pairs, rounds, effective_rank(before)).mine(now)
        if mined is None:
            return
        try:
            batches_of(_groups(mined, self.options), self.options, 1)
        except BatchError as error:
            logger.warning("the pairs of neighbours that were mined again are not used: %s", error)
            return
        self.pairs = mined
        self.loss = None

    def _loss(self) -> GradCacheLoss:
        if self.loss is None:
            self.loss = batch_loss(
                self.embedder,
                self.model,
                self.strategy,
                self.pairs,
                self.options,
                first_layer=self.first_layer,
                scratch=self.scratch,
                lower_states=self.lower_states,
            )
            self.lower_states = self.loss.lower_states
        return self.loss

    def _round(self, checkpoint: Checkpoint | None) -> None:
        """Run the trainer until the round's or the run's end."""
        import torch
        from sentence_transformers import SentenceTransformerTrainingArguments
        from transformers.trainer_callback import PrinterCallback, ProgressCallback

        from datasets import Dataset
        from embedding_adaptation.pipelines.contrastive_finetuning.trainer import ContrastiveTrainer, LengthSortedCollator

        options, pairs = self.options, self.pairs
        end = options.steps if options.rounds is None else min(options.steps, self.first_step + options.rounds.every)
        steps = end - self.first_step
        columns = {"anchor": pairs["source_text"].tolist(), "positive": pairs["generated_text"].tolist()}
        columns |= self._hard_negatives()
        table = Dataset.from_dict(columns | {"label": range(len(pairs))})
        loss = self._loss()
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.scratch),
            max_steps=steps,
            per_device_train_batch_size=options.batch_size // _world_size(),
            dataloader_drop_last=True,
            max_grad_norm=options.max_gradient_norm or 0.0,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            save_steps=options.validate_every,
            eval_strategy="no",
            report_to=[],
            use_cpu=self.adapted.device.type == "cpu",
            seed=options.seed + self.first_step,
            data_seed=options.seed + self.first_step,
        )
        # No texts collected for a model card that is never written.
        self.model.model_card_data.generate_widget_examples = False
        optimizer = torch.optim.AdamW(
            [weight for weight in self.adapted.parameters() if weight.requires_grad],
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
        )
        first = self.first_step
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(first + step, options))
        groups = _groups(pairs, options)
        trainer = ContrastiveTrainer(
            adapted=self.adapted,
            batches=batches_of(groups, options, steps, seed=options.seed + self.first_step, parts=_world_size()),
            checkpoints=self.checkpoints,
            describe=self._describe,
            write_more=self._write_pairs,
            first_step=self.first_step,
            model=self.model,
            args=arguments,
            train_dataset=table,
            loss=loss,
            data_collator=LengthSortedCollator(preprocess_fn=self.model.preprocess),
            callbacks=[_history_callback(self, end)],
            optimizers=(optimizer, scheduler),
        )
        for callback in (PrinterCallback, ProgressCallback):  # the history's own bar counts pairs
            trainer.remove_callback(callback)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint.folder))

    def _hard_negatives(self) -> dict[str, list[str]]:
        if self.options.hard_negatives is None or self.corpus is None:
            return {}
        from embedding_adaptation.pipelines.contrastive_finetuning.hard_negatives import mined_negatives

        negatives = mined_negatives(self._loss().encode, self.pairs, self.corpus, self.options.hard_negatives, self.options.seed)
        return {"negative": negatives}

    def _describe(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    def _write_pairs(self, folder: Path) -> None:
        if self.pairs is not self.given:
            self.pairs.to_parquet(folder / _ROUND_PAIRS, index=False)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those of interrupted processes included."""
        return self.before + time.perf_counter() - self.start

    def spent(self) -> dict[str, float]:
        """What has been computed since this was last asked for."""
        loss = self._loss()
        layers = layer_weights(decoder_layers(self.adapted.get_base_model()))
        first, lower = loss.training_pass.first_layer, loss.lower_states
        below = 0 if lower is None else lower.tokens_computed
        forward, backward = loss.tokens + loss.tokens_again, loss.tokens
        done: dict[str, float] = {
            "tokens": forward,
            "operations": operations(layers, first, forward=forward, backward=backward, lower=below),
        }
        loss.tokens = loss.tokens_again = 0
        if lower is not None:
            lower.tokens_computed = 0
        meter, self.meter = self.meter, joules()
        if meter is not None and self.meter is not None and self.meter >= meter:
            done["joules"] = self.meter - meter
        return done

    def judged(self) -> dict[str, float]:
        """The criteria under the present weights."""
        loss = self._loss()
        tokens, lower = loss.tokens, loss.lower_states
        below = 0 if lower is None else lower.tokens_computed
        found = self.judge.scores(lambda texts: loss.encode(texts).cpu().numpy())
        loss.tokens = tokens  # the ledger counts what training computes
        if lower is not None:
            lower.tokens_computed = below
        logger.info("step %d: %s", self.done, ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
        return found


def _history_callback(run: _Run, end: int) -> TrainerCallback:
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    options = run.options
    bar = tqdm(
        total=(end - run.first_step) * options.batch_size,
        unit="pair",
        desc="train",
        initial=max(0, run.done - run.first_step) * options.batch_size,
    )

    class History(TrainerCallback):
        """Writes down losses and, every few steps, the criteria; ends training when they stay worse."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if not run.rows:
                run.rows.append({"step": 0, **run.judged(), "pairs": 0, "tokens": 0, "operations": 0.0, "seconds": run.seconds})
                run.spent()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:  # noqa: ARG002
            if not logs or "loss" not in logs:
                return
            step = run.first_step + state.global_step
            if not math.isfinite(logs["loss"]):
                msg = (
                    f"the training loss is {logs['loss']} at step {step}; lower contrastive_finetuning.learning_rate "
                    "or set dtype to float32 in conf/base/globals.yml"
                )
                raise TrainingError(msg)
            row = {"step": step, "train_loss": logs["loss"], "pairs": step * options.batch_size}
            row |= {"gradient_norm": logs.get("grad_norm", math.nan), "learning_rate": logs.get("learning_rate", math.nan)}
            before = run.rows[-1]
            row |= {name: before.get(name, 0) + value for name, value in run.spent().items()}
            run.rows.append(row)
            bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)
            bar.update(options.batch_size)
            if state.global_step % options.validate_every == 0 or step == end:
                run.rows[-1].update(run.judged())
                control.should_save = True
            run.rows[-1]["seconds"] = run.seconds
            if is_exhausted(run.rows, options.stopping.criterion, options.stopping.patience):
                control.should_training_stop = True

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            bar.close()

    return History()


def learning_rate_factor(step: int, options: FinetuningOptions) -> float:
    """Share of the highest learning rate in a step, counted from 0."""
    pairs, total = step * options.batch_size, options.steps * options.batch_size
    warmup = min(options.warmup_pairs, total)
    if pairs < warmup:
        return (pairs + options.batch_size) / (warmup + options.batch_size)
    done = (pairs - warmup) / max(total - warmup, 1)
    if options.schedule == "constant":
        return 1.0
    return max(0.0, 1.0 - done) if options.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def batches_of(groups: np.ndarray, options: FinetuningOptions, steps: int, *, seed: int | None = None, parts: int = 1) -> PairBatches:
    """Batches of pairs that may stand together.

    Raises:
        BatchError: If not enough pairs may.
    """
    return PairBatches(groups, batch_size=options.batch_size, steps=steps, seed=options.seed if seed is None else seed, parts=parts)


def batch_loss(
    embedder: Embedder,
    model: SentenceTransformer,
    strategy: Strategy,
    train_pairs: pd.DataFrame,
    options: FinetuningOptions,
    *,
    first_layer: int,
    scratch: Path,
    lower_states: LowerStates | None = None,
) -> GradCacheLoss:
    """The loss of a batch of pairs whose labels are their rows in ``train_pairs``.

    Args:
        embedder: With its adapter.
        model: The same as a sentence-transformers model.
        strategy: Template and pooling.
        train_pairs: The pairs.
        options: Fine-tuning options.
        first_layer: The lowest adapted layer.
        scratch: Folder for what does not fit into memory.
        lower_states: Output of the frozen lower layers, as another loss of this embedder has kept it.
    """
    import torch

    from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCacheLoss
    from embedding_adaptation.pipelines.contrastive_finetuning.info_nce import info_nce
    from embedding_adaptation.pipelines.contrastive_finetuning.lower_states import LowerStates

    groups = _groups(train_pairs, options)  # [N, 2]

    def loss(vectors: list[torch.Tensor], labels: torch.Tensor | None) -> torch.Tensor:
        left_out = None
        if labels is not None:
            left_out = torch.from_numpy(conflicts(groups[labels.cpu().numpy()])).to(vectors[0].device)  # [B, B]
        return info_nce(
            vectors[0],
            vectors[1],
            vectors[2] if len(vectors) > 2 else None,  # noqa: PLR2004  anchors, positives, hard negatives
            temperature=options.temperature,
            margin=options.margin,
            symmetric=options.symmetric,
            left_out=left_out,
            false_negative_margin=options.false_negatives.margin,
            dimensions=options.matryoshka_dimensions,
        )

    training_pass = training_pass_of(embedder, strategy, first_layer)
    if training_pass.first_layer and lower_states is None:
        lower_states = LowerStates(
            training_pass.lower_states,
            memory_mb=options.lower_states_mb,
            disk_mb=options.lower_states_disk_mb,
            folder=scratch,
            batch_tokens=embedder.batch_tokens,
        )
    return GradCacheLoss(
        model.preprocess,
        training_pass,
        loss,
        chunk_tokens=options.chunk_tokens,
        activation_mb=options.activation_mb,
        lower_states=lower_states if training_pass.first_layer else None,
    )


def training_pass_of(embedder: Embedder, strategy: Strategy, first_layer: int) -> TrainingPass:
    """The fastest pass that gives this model's own vectors: packed rows above the frozen layers, else padded batches through all.

    Raises:
        UnsupportedDecoderError: If neither does.
    """
    from embedding_adaptation.embedder.attention_swap import UnsupportedDecoderError
    from embedding_adaptation.embedder.training_pass import PaddedPass, TrainingPass

    frame = strategy.templates[0].frame(embedder.tokenizer, embedder.max_length)
    texts = [list(range(1, length)) for length in (4, 7, 7)]
    try:
        packed = TrainingPass(embedder.backbone, frame, strategy.pooling, first_layer)
        packed.check([packed.row(text) for text in texts])
    except UnsupportedDecoderError as error:
        logger.warning("training goes the slow way, over padded texts and all layers: %s", error)
        padded = PaddedPass(embedder.backbone, frame, strategy.pooling)
        padded.check([padded.row(text) for text in texts])
        return padded
    return packed


def add_adapter(embedder: Embedder, options: FinetuningOptions) -> int:
    """Put a fresh LoRA adapter on linear layers of the embedder's decoder; only the adapter's weights train.

    Returns:
        The lowest adapted layer, from 0: those below it never change.

    Raises:
        AdapterOptionsError: If the options name a layer or a module that the model does not have.
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
                raise AdapterOptionsError(msg)
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
    # PEFT may adapt the experts of every layer where those of one are asked for; an adapter that does not train stays without effect.
    lower = tuple(f"base_model.model.{layers_name(embedder.backbone.get_base_model())}.{number}." for number in range(layers[0]))
    for name, weight in embedder.backbone.named_parameters():
        if name.startswith(lower):
            weight.requires_grad_(False)
    return layers[0]


def linear_modules(decoder: torch.nn.Module, layers_path: str, layers: Sequence[int]) -> list[str]:
    """Names of all linear modules in the given layers; a router of experts, which returns more than its product, is none."""
    import torch
    from transformers.pytorch_utils import Conv1D

    starts = tuple(f"{layers_path}.{number}." for number in layers)
    return [
        name
        for name, module in decoder.named_modules()
        if name.startswith(starts) and isinstance(module, torch.nn.Linear | Conv1D) and not type(module).__name__.endswith("Router")
    ]


def _judge(
    embedder: Embedder,
    strategy: Strategy,
    corpus: pd.DataFrame | None,
    validation_pairs: pd.DataFrame,
    options: FinetuningOptions,
    reference: np.ndarray | None,
) -> Judge:
    chosen = validation_pairs.head(options.stopping.pairs)
    texts = _judged_texts(corpus, validation_pairs, options)
    attention: Callable[[], float] | None = None
    if strategy.templates[0].suffix and texts:

        def share() -> float:
            from embedding_adaptation.attention.recording import record_attention
            from embedding_adaptation.attention.rows import AttentionError

            was_training = embedder.backbone.training
            embedder.backbone.eval()
            try:
                with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as folder:
                    looked_at = texts[:_ATTENTION_TEXTS]
                    rows = record_attention(embedder, strategy.templates[0], looked_at, Path(folder) / "rows", progress=False)
                    return float(sum(text.row[:, :, text.text_start : text.text_end].sum(axis=2).mean() for text in rows) / len(rows))
            except AttentionError:  # a model without softmax attention has no such share
                return math.nan
            finally:
                embedder.backbone.train(was_training)

        attention = share
    pairs = (chosen["source_text"].tolist(), chosen["generated_text"].tolist())
    return Judge(pairs, texts, options.temperature, reference=reference, attention=attention)


def _judged_texts(corpus: pd.DataFrame | None, validation_pairs: pd.DataFrame, options: FinetuningOptions) -> list[str]:
    texts = validation_pairs["source_text"] if corpus is None else corpus["text"]
    unique = texts.drop_duplicates()
    return [str(text) for text in unique.sample(min(options.stopping.texts, len(unique)), random_state=options.seed)]


def _reference(
    embedder: Embedder,
    corpus: pd.DataFrame | None,
    validation_pairs: pd.DataFrame,
    options: FinetuningOptions,
    embedder_options: EmbedderOptions,
) -> np.ndarray | None:
    """Vectors of the judged texts by other means than the trained strategy's: what its neighbours are compared with."""
    others = [
        name
        for name, other in embedder_options.strategies.items()
        if other.weights == "base" and other.pooling == "value_weighted" and not other.after.title
    ]
    texts = _judged_texts(corpus, validation_pairs, options)
    if not others or len(texts) < 3:  # noqa: PLR2004  neighbours need company
        return None
    return embedder.encode(texts, build_strategy(others[0], embedder_options), progress=False)


def _groups(pairs: pd.DataFrame, options: FinetuningOptions) -> np.ndarray:
    apart = options.false_negatives
    return pair_groups(pairs, same_source=apart.same_source, near_duplicate=apart.near_duplicate)


def _windows(texts: list[str], size: int = 512) -> list[list[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def _world_size() -> int:
    import torch

    return torch.distributed.get_world_size() if torch.distributed.is_available() and torch.distributed.is_initialized() else 1


def _check_four_bit() -> None:
    import importlib.util

    import torch

    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        msg = (
            "contrastive_finetuning.four_bit needs a CUDA device and bitsandbytes; install the extra 'quantised' "
            "(pip install -e '.[quantised]') on a machine with one, or set it to false"
        )
        raise TrainingError(msg)
