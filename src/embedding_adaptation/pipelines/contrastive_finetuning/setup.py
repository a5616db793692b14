"""Everything before the loop: the adapter, the pass through the decoder, the judge, and the token rows of each round."""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.attention.recording import record_attention
from embedding_adaptation.attention.rows import AttentionError
from embedding_adaptation.checkpoint_folders import TEACHERS, Checkpoints
from embedding_adaptation.embedder.attention_swap import UnsupportedDecoderError
from embedding_adaptation.embedder.decoder_pass import decoder_layers
from embedding_adaptation.embedder.training_pass import PaddedPass, TrainingPass
from embedding_adaptation.identity import digest_of, texts_in_order
from embedding_adaptation.pipelines.contrastive_finetuning.batches import BatchError, PairBatches
from embedding_adaptation.pipelines.contrastive_finetuning.collisions import Collisions
from embedding_adaptation.pipelines.contrastive_finetuning.cost import layer_weights, operations
from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCache
from embedding_adaptation.pipelines.contrastive_finetuning.hard_negatives import mined_negatives
from embedding_adaptation.pipelines.contrastive_finetuning.info_nce import contrastive_loss
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError
from embedding_adaptation.pipelines.contrastive_finetuning.judging import Judge
from embedding_adaptation.pipelines.contrastive_finetuning.lessons import Lessons, kept_vectors
from embedding_adaptation.pipelines.contrastive_finetuning.lora import add_adapter, load_adapter
from embedding_adaptation.pipelines.contrastive_finetuning.lower_states import LowerStates
from embedding_adaptation.pipelines.contrastive_finetuning.ranks import from_first, rank, world_size
from embedding_adaptation.pipelines.contrastive_finetuning.rounds import NeighbourRounds
from embedding_adaptation.pipelines.contrastive_finetuning.seen_vectors import SeenVectors, weights_key
from embedding_adaptation.runtime import build_strategy, fitted_strategies, load_embedder, teacher_targets
from embedding_adaptation.vectors.criteria import effective_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy
    from embedding_adaptation.embedder.template import PromptTemplate
    from embedding_adaptation.embedder.training_pass import GradientPass
    from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import TrainingState
    from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import Row
    from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

logger = logging.getLogger(__name__)

_ATTENTION_TEXTS = 32
_TEXTS_AT_ONCE = 4096
_TEXTS, _NEGATIVES = ["source_text", "generated_text"], "negative_text"


class TokenRows:
    """Rows of token ids, four bytes per token.

    Args:
        rows: The rows.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        lengths: list[int] = []

        def tokens() -> Iterator[int]:
            for row in rows:
                lengths.append(len(row))
                yield from row

        self._ids = np.fromiter(tokens(), np.int32)
        self._ends = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> Row:
        return tuple(self._ids[self._ends[place] : self._ends[place + 1]].tolist())


@dataclass(frozen=True)
class Round:
    """A stretch of training between two rounds of mining.

    Attributes:
        first_step: Steps before it.
        last_step: Steps when it ends.
        columns: Token rows of all texts; or of all anchors, all positives and, where there are any, all hard negatives.
        characters: ``[N]``, characters of each text, or of each pair's texts.
        all_batches: Texts or pairs of each of its steps.
        loss: The loss of a batch's vectors, of which there is one ``[B, D]`` for each column.
    """

    first_step: int
    last_step: int
    columns: tuple[TokenRows, ...]
    characters: np.ndarray
    all_batches: Iterable[list[int]]
    loss: Callable[[Sequence[torch.Tensor], Sequence[int]], torch.Tensor]

    def batches(self, step: int) -> Iterator[list[int]]:
        """The texts or pairs of each step from the given step of the run on, ``[B]``; each process's part is in order of length.

        The loss does not depend on the order, and texts of similar length fill chunks and padded batches better.
        """
        for batch in islice(self.all_batches, step - self.first_step, None):
            size = len(batch) // world_size()
            parts = (batch[start : start + size] for start in range(0, len(batch), size))
            yield [place for part in parts for place in sorted(part, key=self.characters.__getitem__)]

    def rows(self, batch: Sequence[int]) -> list[list[Row]]:
        """This process's part of a batch, ``b`` token rows per column."""
        size = len(batch) // world_size()
        own = batch[rank() * size : (rank() + 1) * size]
        return [[column[place] for place in own] for column in self.columns]


@dataclass(frozen=True)
class Setup:
    """A run that is ready to start.

    Attributes:
        job: Data, model and options.
        embedder: With its adapter.
        strategy: Template and pooling.
        cache: Embeds batches, and takes gradients back.
        lower_states: Output of the layers below the adapter; ``None`` where every layer is adapted.
        judge: Evaluates weights on held-out pairs and unlabelled texts.
        checkpoints: This run's.
        initial: The adapter's weights before the first step.
        lessons: What the consensus loss learns from; ``None`` for InfoNCE.
        collisions: What the teacher says of InfoNCE's negatives; ``None`` if it is not asked.
        spent: Tokens and operations spent before the first step.
        seen: Vectors that evaluation has computed.
    """

    job: TrainingJob
    embedder: Embedder
    strategy: Strategy
    cache: GradCache
    lower_states: LowerStates | None
    judge: Judge
    checkpoints: Checkpoints
    initial: dict[str, torch.Tensor]
    lessons: Lessons | None = None
    collisions: Collisions | None = None
    spent: dict[str, float] = field(default_factory=dict)
    seen: SeenVectors = field(default_factory=SeenVectors)

    @property
    def model(self) -> PeftModel:
        """The decoder with its adapter."""
        return cast("PeftModel", self.embedder.backbone)

    @property
    def teacher(self) -> np.ndarray | None:
        """The teacher's vectors, if it is asked."""
        asked = self.lessons or self.collisions
        return None if asked is None else asked.teacher

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        """The weights that train."""
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def rows(self, texts: Sequence[str]) -> Iterator[Row]:
        """Token ids of texts, as :func:`token_rows` makes them."""
        return token_rows(texts, self.strategy.templates[0], self.embedder.tokenizer, self.cache.training_pass)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts under the present weights, ``[N, D]`` float32; those already computed under the same weights are reused."""
        adapter = {name: weight for name, weight in self.model.named_parameters() if name in self.initial}
        return self.seen.of(weights_key(self.model, adapter), list(self.rows(texts)), lambda rows: self.cache.encode(rows).cpu().numpy())

    def judged(self, step: int) -> dict[str, float]:
        """The criteria under the present weights."""
        measured = from_first(lambda: self.judge.scores(self.encode))
        logger.info("step %d: %s", step, ", ".join(f"{name} {value:.3f}" for name, value in measured.items()))
        return measured

    def round(self, state: TrainingState) -> Round:
        """The current or first round of a run.

        Raises:
            BatchError: If too few of its pairs fit into one batch.
        """
        if self.lessons is not None:
            return self._of_texts(self.lessons)
        job, given = self.job, self.job.train_pairs
        pairs = given if state.pairs is None else state.pairs
        if job.options.hard_negatives is not None and _NEGATIVES not in pairs:
            pairs = state.pairs = pairs.assign(**{_NEGATIVES: from_first(lambda: self._negatives(pairs))})
        is_given = len(pairs) == len(given) and np.array_equal(pairs[_TEXTS].to_numpy(), given[_TEXTS].to_numpy())
        groups = job.groups if is_given else job.groups_of(pairs)
        every = job.options.rounds.every if job.options.rounds else job.options.steps
        first, last = state.first_step, min(job.options.steps, state.first_step + every)
        batches = PairBatches(groups, batch_size=job.options.batch_size, steps=last - first, seed=job.options.seed + first)
        texts = [*_TEXTS, *([_NEGATIVES] if _NEGATIVES in pairs else [])]
        characters = np.sum([pairs[name].str.len() for name in texts], axis=0)  # [N]
        columns = tuple(TokenRows(self.rows(pairs[name].tolist())) for name in texts)

        def loss(vectors: Sequence[torch.Tensor], batch: Sequence[int]) -> torch.Tensor:
            weights = None
            if self.collisions is not None:
                weights = self.collisions.weights(*(pairs[name].iloc[list(batch)].tolist() for name in _TEXTS))
            return contrastive_loss(vectors, groups[batch], job.options, weights)

        return Round(first, last, columns, characters, batches, loss)

    def _of_texts(self, lessons: Lessons) -> Round:
        """The only round of the consensus loss."""
        steps, texts = self.job.options.steps, lessons.given.texts
        batches = lessons.batches(steps=steps, seed=self.job.options.seed)
        return Round(0, steps, (TokenRows(self.rows(texts)),), np.array([len(text) for text in texts]), batches, lessons.loss)

    def next_round(self, state: TrainingState) -> Round:
        """Mine pairs again; keep the old ones if that is no longer worthwhile."""
        before, state.first_step = state.pairs, state.step
        mined = from_first(lambda: self._mined(self.job.train_pairs if before is None else before))
        if mined is not None:
            state.pairs = mined
            try:
                return self.round(state)
            except BatchError as error:
                logger.warning("the newly mined pairs of neighbours are not used: %s", error)
        state.pairs = None if before is None else before.drop(columns=_NEGATIVES, errors="ignore")
        return self.round(state)

    def _mined(self, current: pd.DataFrame) -> pd.DataFrame | None:
        rounds, corpus = self.job.options.rounds, self.job.corpus
        assert rounds is not None  # noqa: S101  a round ends before the run only where there are several
        assert corpus is not None  # noqa: S101  checked before
        texts = corpus.head(rounds.texts)
        now = self.encode(texts["text"].tolist())  # [N, D]
        with self.model.disable_adapter():
            before = self.encode(texts["text"].tolist())  # [N, D]
        return NeighbourRounds(texts, self.job.train_pairs, current, rounds, effective_rank(before)).mine(now)

    def _negatives(self, pairs: pd.DataFrame) -> list[str]:
        options, corpus = self.job.options, self.job.corpus
        assert options.hard_negatives is not None  # noqa: S101  asked before
        assert corpus is not None  # noqa: S101  checked before
        return mined_negatives(self.encode, pairs, corpus, options.hard_negatives, options.seed)


def prepare(job: TrainingJob, scratch: Path) -> Setup:
    """Load the model and set up everything that the loop needs.

    Args:
        job: Data, model and options.
        scratch: Folder for data that do not fit into memory, and for checkpoints that are not kept.

    Raises:
        TrainingError: If a batch cannot be divided evenly among the processes.
    """
    options, embedder_options = job.options, job.embedder_options
    if options.batch_size % world_size():
        msg = f"contrastive_finetuning.batch_size ({options.batch_size}) is not divisible by {world_size()} processes; choose a multiple"
        raise TrainingError(msg)
    torch.manual_seed(options.seed)
    strategy = build_strategy(embedder_options.adapt, embedder_options)
    embedder = _loaded(job)
    texts = _judged_texts(job)
    reference: np.ndarray | None = None
    if options.stopping.reference is not None and len(texts) > 2:  # noqa: PLR2004  neighbours need company
        chosen = {options.stopping.reference: embedder_options.every_strategy[options.stopping.reference]}
        (compared,) = fitted_strategies(embedder, chosen, embedder_options, lambda: texts, job.memory)
        reference = embedder.encode(texts, compared, progress=False)
    lessons, collisions, spent = _taught(job, embedder, scratch)
    is_taught = reference is not None or lessons is not None or collisions is not None
    taught_in = embedder.number_format if is_taught else ""
    embedder.eight_bits = False  # what is trained stays in the format of its weights
    lower_key = embedder.lower_key()
    first_layer = add_adapter(embedder, options.lora)
    if options.start is not None:
        start_from(embedder, Path(options.start))
    model = cast("PeftModel", embedder.backbone)
    for config in model.peft_config.values():
        config.base_model_name_or_path = job.weights.card.source  # and not the path of this machine's copy
    cache, lower_states = cache_of(embedder, strategy, first_layer, options, scratch)
    if lower_states is not None and lower_key is not None and embedder.lower_memory is not None and lower_key[2] == first_layer:
        lower_states.known = partial(embedder.lower_memory.of_frame, lower_key, cache.training_pass.frame)
    dtype = f"{model.dtype}, taught in int8" if taught_in == "int8" else str(model.dtype)
    fingerprint = job.fingerprint(max_length=embedder.max_length, dtype=dtype)
    return Setup(
        job,
        embedder,
        strategy,
        cache,
        lower_states,
        _judge(job, embedder, strategy, texts, reference, lessons),
        Checkpoints(job.checkpoints or scratch, fingerprint),
        {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad},
        lessons,
        collisions,
        spent,
    )


def _loaded(job: TrainingJob) -> Embedder:
    """The embedder, in every process in the number format that the first one has chosen, which may have measured otherwise."""
    options, four_bit = job.embedder_options, job.options.four_bit
    if world_size() == 1 or options.dtype != "auto":
        return load_embedder(job.weights, options, four_bit=four_bit)
    own = load_embedder(job.weights, options, four_bit=four_bit) if rank() == 0 else None
    chosen = from_first(lambda: None if own is None else own.number_format)
    return own or load_embedder(job.weights, options.model_copy(update={"dtype": chosen}), four_bit=four_bit)


def _taught(job: TrainingJob, embedder: Embedder, scratch: Path) -> tuple[Lessons | None, Collisions | None, dict[str, float]]:
    """What the loss takes from the teacher, and what it cost to ask."""
    options, perplexity = job.options, job.perplexity
    if options.loss == "consensus":
        vectors, spent = _teacher(job, job.texts.texts, embedder, scratch)
        return Lessons(job.texts, vectors, options, perplexity), None, spent
    treatment = options.false_negatives.teacher
    if treatment is None:
        return None, None, {}
    mined: Iterable[str] = job.corpus["text"].head(options.rounds.texts) if options.rounds is not None and job.corpus is not None else ()
    texts = list(dict.fromkeys([*job.train_pairs["source_text"], *job.train_pairs["generated_text"], *mined]))
    vectors, spent = _teacher(job, texts, embedder, scratch)
    places = {text: place for place, text in enumerate(texts)}
    return None, Collisions(vectors, places, perplexity=perplexity, treatment=treatment), spent


def _teacher(job: TrainingJob, texts: Sequence[str], embedder: Embedder, scratch: Path) -> tuple[np.ndarray, dict[str, float]]:
    """The teacher's vectors of texts, kept for the next run, and what it cost to ask."""
    before = embedder.tokens_computed
    identity = digest_of([embedder.identity, job.embedder_options.teacher_definition, embedder.max_length, texts_in_order(texts)])
    path = (job.checkpoints or scratch) / TEACHERS / f"{identity}-{embedder.number_format}.safetensors"
    vectors = from_first(lambda: kept_vectors(path, lambda: teacher_targets(embedder, texts, job.embedder_options, memory=job.memory)))
    tokens = embedder.tokens_computed - before
    weights = layer_weights(decoder_layers(embedder.backbone))
    return vectors, {"tokens": float(tokens), "operations": operations(weights, len(weights), forward=0, backward=0, lower=tokens)}


def start_from(embedder: Embedder, folder: Path) -> None:
    """Load the weights that training starts from into a new adapter.

    Raises:
        TrainingError: If the adapter in the folder has other layers or another rank.
    """
    own = {name.replace(".default.", "."): weight for name, weight in embedder.backbone.named_parameters() if "lora_" in name}
    found = load_file(folder / "adapter_model.safetensors")
    same = own.keys() == found.keys() and all(weight.shape == found[name].shape for name, weight in own.items())
    if not same:
        msg = (
            f"contrastive_finetuning.start: the adapter in {str(folder)!r} has other layers or another rank than "
            "contrastive_finetuning.lora; give both the same lora options"
        )
        raise TrainingError(msg)
    load_adapter(cast("PeftModel", embedder.backbone), folder)


def cache_of(
    embedder: Embedder, strategy: Strategy, first_layer: int, options: FinetuningOptions, scratch: Path
) -> tuple[GradCache, LowerStates | None]:
    """The embedder of batches, and the cache of the output of the layers below the adapter.

    Args:
        embedder: With its adapter.
        strategy: Template and pooling.
        first_layer: The lowest adapted layer.
        options: Fine-tuning options.
        scratch: Folder for data that do not fit into memory.

    Raises:
        UnsupportedDecoderError: If no pass reproduces this model's vectors.
    """
    training_pass = training_pass_of(embedder, strategy, first_layer)
    lower_states: LowerStates | None = None
    if isinstance(training_pass, TrainingPass) and training_pass.first_layer:
        lower_states = LowerStates(
            training_pass.lower_states,
            memory_mb=options.lower_states_mb,
            disk_mb=options.lower_states_disk_mb,
            folder=scratch,
            batch_tokens=embedder.batch_tokens,
        )
        training_pass.lower_source = lower_states.of
    return GradCache(training_pass, chunk_tokens=options.chunk_tokens, activation_mb=options.activation_mb), lower_states


def token_rows(
    texts: Sequence[str], template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, training_pass: GradientPass
) -> Iterator[Row]:
    """Token ids of texts under a template, without the common prefix."""
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        for ids in template.text_ids(texts[start : start + _TEXTS_AT_ONCE], tokenizer):
            yield training_pass.row(ids)


def training_pass_of(embedder: Embedder, strategy: Strategy, first_layer: int) -> GradientPass:
    """The fastest pass that reproduces this model's vectors: packed rows above the frozen layers, else padded batches through all.

    Raises:
        UnsupportedDecoderError: If neither does.
    """
    frame = strategy.templates[0].frame(embedder.tokenizer, embedder.max_length)
    texts = [list(range(1, length)) for length in (4, 7, 7)]
    try:
        packed = TrainingPass(embedder.backbone, frame, strategy.pooling, first_layer)
        packed.check([packed.row(text) for text in texts])
    except UnsupportedDecoderError as error:
        logger.warning("training the slow way, on padded texts and through all layers: %s", error)
        padded = PaddedPass(embedder.backbone, frame, strategy.pooling)
        padded.check([padded.row(text) for text in texts])
        return padded
    return packed


def _judged_texts(job: TrainingJob) -> list[str]:
    if job.corpus is not None:
        texts = job.corpus["text"]
    elif job.options.loss == "consensus":
        texts = pd.concat([job.validation_pairs["source_text"], job.train_pairs["source_text"]])
    else:
        texts = job.validation_pairs["source_text"]
    unique = texts.drop_duplicates()
    return [str(text) for text in unique.sample(min(job.options.stopping.texts, len(unique)), random_state=job.options.seed)]


def _judge(
    job: TrainingJob, embedder: Embedder, strategy: Strategy, texts: list[str], reference: np.ndarray | None, lessons: Lessons | None
) -> Judge:
    held_out = job.validation_pairs.head(job.options.stopping.pairs)
    template = strategy.templates[0]

    def text_attention() -> float:
        was_training = embedder.backbone.training
        embedder.backbone.eval()
        try:
            with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as folder:
                rows = record_attention(embedder, template, texts[:_ATTENTION_TEXTS], Path(folder) / "rows", progress=False)
                return float(sum(text.row[:, :, text.text_start : text.text_end].sum(axis=2).mean() for text in rows) / len(rows))
        except AttentionError:  # a model without softmax attention has no such share
            return math.nan
        finally:
            embedder.backbone.train(was_training)

    return Judge(
        (held_out["source_text"].tolist(), held_out["generated_text"].tolist()),
        texts,
        job.options.temperature,
        reference=reference,
        attention=text_attention if template.suffix and texts else None,
        held_out=None if lessons is None else (lessons.held_out_texts, lessons.held_out_loss),
    )
