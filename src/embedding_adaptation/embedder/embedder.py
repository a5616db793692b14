"""The embedder: one object that tokenises, truncates and pools for training, extraction, evaluation and attention analysis."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from tqdm.auto import tqdm

from embedding_adaptation.embedder.after_processing import AfterProcessing
from embedding_adaptation.embedder.attention_swap import UnsupportedDecoderError
from embedding_adaptation.embedder.batching import token_budget_batches
from embedding_adaptation.embedder.checkpoint import BaseModelError
from embedding_adaptation.embedder.decoder_pass import PackedDecoder, Prefix, Wanted, row_groups
from embedding_adaptation.embedder.device import DeviceName, DtypeName, choose_device, choose_format
from embedding_adaptation.embedder.lean_layers import lowest_adapted
from embedding_adaptation.embedder.loading import load_backbone
from embedding_adaptation.embedder.pooling import POOLINGS, weighted_mean_of
from embedding_adaptation.embedder.positions import position_limit
from embedding_adaptation.embedder.prompt_tree import PromptTree
from embedding_adaptation.embedder.quantised import QuantisedLayers, quantisation_state
from embedding_adaptation.embedder.reference import encode_one_by_one, packing_is_exact
from embedding_adaptation.embedder.shards import ShardFolder
from embedding_adaptation.embedder.storage import load_adapter, resolve_source, save_embedder
from embedding_adaptation.embedder.strategy import Strategy, StrategyError
from embedding_adaptation.embedder.template import Frame, PromptTemplate, encode_texts, fallback_id
from embedding_adaptation.forecast import MEASURED, seconds_left
from embedding_adaptation.identity import adapter_settings, digest_of, vectors_identity, weights_identity
from embedding_adaptation.vectors.unit import unit_vectors
from embedding_adaptation.wording import duration

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from embedding_adaptation.embedder.after_processing import AfterSteps
    from embedding_adaptation.embedder.decoder_pass import PassResult, RowGroup
    from embedding_adaptation.embedder.lower_memory import LowerMemory
    from embedding_adaptation.embedder.modules import PromptedDecoder
    from embedding_adaptation.embedder.storage import Place
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.identity import CorpusIdentity

logger = logging.getLogger(__name__)

# On a CPU, keeping activations in the cache matters more than large matrices: 1,024 tokens ran at 1.3 times the speed of 4,096.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16384, "mps": 4096}
_WINDOW = 2048  # texts tokenised at once
_IRRELEVANT = {"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype"}
DEFAULT_TEMPLATE = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
# Poolings that look at nothing but the last token.
_ONLY_LAST = frozenset({"last", "eos", "value_weighted"})
# What 8-bit products must not change: the vectors of these texts, to this cosine.
_LEAST_COSINE = 0.998
_PROBE_TEXTS = (
    "Why was my card declined at the shop yesterday?",
    "Shares fell 3.2 pct in early trading after the company cut its forecast for the 4th quarter.",
    "How to sort a dictionary by value in Python 3",
    "thx",
)


class Embedder:
    """A base model, with or without an adapter, in memory and ready to embed texts with any strategy.

    Args:
        backbone: The decoder without vocabulary head, or a PEFT model around it.
        tokenizer: Its tokenizer.
        max_length: Maximum sequence length in tokens, including the prompt.
        batch_tokens: Token budget per batch, which determines memory use; ``None`` chooses one that suits the device.
        strategy: The default strategy of :meth:`encode`.

    Attributes:
        corpus: The corpus that the weights were adapted to; ``None`` for base weights or if it is unknown.
        eight_bits: Whether texts are embedded with products of 8-bit integers where the model allows it (see :attr:`number_format`);
            training, recording and saving use the float32 weights in any case.
        lower_memory: What the lower half of the base model has computed of texts, for embedders of the same base model; ``None`` keeps
            nothing.

    Example:
        >>> from embedding_adaptation import Embedder
        >>> embedder = Embedder.load("models/my-llama")  # doctest: +SKIP
        >>> embedder.encode(["a text", "another"]).shape  # doctest: +SKIP
        (2, 576)
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 256,
        batch_tokens: int | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self.backbone = backbone
        self.tokenizer = tokenizer
        limit = position_limit(backbone)
        if limit is not None and max_length > limit:
            logger.warning(
                "%s has positions for only %d tokens: max_length is set to %d instead of %d, and longer texts are truncated",
                type(backbone).__name__, limit, limit, max_length,
            )  # fmt: skip
            max_length = limit
        self.max_length = max_length
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(backbone.device.type, _BATCH_TOKENS["cuda"])
        self.strategy = strategy or Strategy("default", DEFAULT_TEMPLATE, "last")
        self.tokens_computed = 0
        self.corpus: CorpusIdentity | None = None
        self.eight_bits = False
        self.lower_memory: LowerMemory | None = None
        self._packs: bool | None = None
        self._eight_bits_hold: bool | None = None
        self._by_name = False
        self._quantised: tuple[int, QuantisedLayers] | None = None
        self._loaded: tuple[Place, int] | None = None

    @classmethod
    def load(
        cls,
        source: DecoderWeights | str | Path,
        *,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
        max_length: int | None = None,
        batch_tokens: int | None = None,
        strategy: Strategy | None = None,
        four_bit: bool = False,
        base: DecoderWeights | str | Path | None = None,
    ) -> Self:
        """Load an embedder.

        Args:
            source: A folder written by :meth:`save` or by the export; an adapter folder, whose adapter stays separate from the base weights
                in float32, as it was trained; a base model as in the setting ``base_model``: a folder written by transformers, a Hub id
                with or without ``@REVISION``, a GGUF file, ``package:NAME/FILE.gguf``; or weights from the catalog.
            device: The device to run on.
            dtype: The number format. ``auto`` measures which is fastest; it takes ``int8`` only if the model's vectors of a few texts keep
                a cosine of 0.998 to float32.
            max_length: Maximum sequence length in tokens, including the prompt; ``None`` is that of the saved or exported embedder or of
                the adapter's training, otherwise 256.
            batch_tokens: Token budget per batch.
            strategy: The default strategy of :meth:`encode`; ``None`` is that of the saved or exported embedder or of the adapter's
                training, otherwise PromptEOL's template with the last token.
            four_bit: Keep the linear layers in four bits (NF4); needs CUDA and bitsandbytes.
            base: The base model of an adapter folder; ``None`` uses the one in a folder ``base_model`` beside it, as in the project's data
                folder, or the one named in its card.

        Raises:
            BaseModelError: If the model does not exist or cannot be used, an adapter does not match its base, or the strategy of a
                sentence-transformers model is unknown and none is given; the message says what to do.
            StrategyError: If the strategy uses a layer that the model does not have.
            DeviceError: If the device is not available, or int8 cannot be computed on it.
        """
        place = resolve_source(source, base=base, has_strategy=strategy is not None)
        resolved_device = choose_device(device)
        number_format = choose_format(dtype, resolved_device)
        resolved_dtype = torch.float32 if number_format == "int8" else getattr(torch, number_format)
        loading: dict[str, Any] = {}
        if four_bit:
            from transformers import BitsAndBytesConfig

            loading["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=resolved_dtype, bnb_4bit_use_double_quant=True
            )
            loading["device_map"] = {"": resolved_device}
        try:
            backbone = load_backbone(place.model, dtype=resolved_dtype, **loading)
            tokenizer = place.tokenizer(int(backbone.get_input_embeddings().weight.shape[0]))
        except BaseModelError as error:
            msg = f"base_model {place.title!r}: {error}"
            raise BaseModelError(msg) from error
        if place.adapter is not None:
            backbone = load_adapter(backbone, place.adapter)
        logger.info(
            "Loaded %s%s%s on %s in %s",
            place.title,
            " with its adapter" if place.adapter else "",
            f", adapted to {place.corpus.title}," if place.corpus else "",
            resolved_device,
            number_format,
        )
        embedder = cls(
            (backbone if four_bit else backbone.to(resolved_device)).eval(),
            tokenizer,
            max_length=max_length or place.max_length or 256,
            batch_tokens=batch_tokens,
            strategy=strategy or place.strategy,
        )
        embedder.corpus = place.corpus
        embedder.eight_bits = number_format == "int8" and not four_bit
        embedder._by_name = dtype == "int8"
        embedder._loaded = (place, embedder._weights_state())
        embedder.check([embedder.strategy])
        return embedder

    def save(self, folder: str | Path) -> None:
        """Write weights (with the adapter merged), tokenizer, strategy and after-processing, which :meth:`load` reads back.

        Raises:
            FileExistsError: If the path already exists.
        """
        save_embedder(self, Path(folder))

    def decoder(self, template: PromptTemplate) -> PromptedDecoder:
        """The decoder with one template, sharing this embedder's weights."""
        from embedding_adaptation.embedder.modules import PromptedDecoder  # sentence-transformers takes seconds to import

        return PromptedDecoder(self.backbone, self.tokenizer, template, self.max_length)

    def sentence_transformer(self, strategy: Strategy | None = None) -> SentenceTransformer:
        """This embedder with one strategy as a sentence-transformers model that shares its weights.

        Raises:
            StrategyError: If the strategy needs more than the last layer's token vectors with one template.
        """
        from sentence_transformers import SentenceTransformer  # takes seconds to import and is not needed for encoding
        from sentence_transformers.base.modules import Normalize

        from embedding_adaptation.embedder.modules import TokenPooling

        strategy = strategy or self.strategy
        if strategy.is_attention_pooling or len(strategy.templates) > 1 or strategy.hidden_layers(self.layer_count) != (self.layer_count,):
            msg = (
                f"strategy {strategy.name!r} cannot be trained or run as sentence-transformers modules, which support one template, the "
                f"last layer and the poolings {', '.join(POOLINGS)}; use another strategy"
            )
            raise StrategyError(msg)
        decoder = self.decoder(strategy.templates[0])
        modules = [decoder, TokenPooling(strategy.pooling, self.dimension(strategy))]
        if strategy.normalise:
            modules.append(Normalize())
        return SentenceTransformer(modules=modules, device=str(self.backbone.device))

    @property
    def identity(self) -> str:
        """The identity of the weights, by which every store knows them (see :func:`~embedding_adaptation.identity.weights_identity`).

        It is that of the files they were loaded from; it is computed from the weights only if they were created or changed in memory.
        """
        if self._loaded is not None and self._loaded[1] == self._weights_state():
            return self._loaded[0].identity
        return self._identity_in_memory()

    @property
    def identity_without_adapter(self) -> str | None:
        """The identity of the base weights alone; ``None`` if these were created or changed in memory."""
        if self._loaded is None or self._loaded[1] != self._weights_state():
            return None
        return replace(self._loaded[0], adapter=None).identity

    def vectors_identity(self, strategy: Strategy, *, weights: str | None = None) -> str:
        """The identity of a strategy's vectors, by which every store knows them: embedders that agree in it give the same vectors.

        Args:
            strategy: The strategy.
            weights: Identity of the weights; ``None`` takes those of the embedder as it is.
        """
        in_four_bits = " in four bits" if getattr(self.backbone, "is_loaded_in_4bit", False) else ""
        return vectors_identity(weights or self.identity, strategy, max_length=self.max_length, dtype=self.number_format + in_four_bits)

    @property
    def number_format(self) -> str:
        """The format in which texts are embedded: that of the weights in memory, or ``int8``.

        With :attr:`eight_bits`, it is ``int8`` unless the model cannot be computed in packed rows or, where it was not asked for by name,
        its vectors do not keep a cosine of 0.998 to float32.
        """
        if self.eight_bits:
            if self._eight_bits_hold is None:
                self._eight_bits_hold = self._compare_eight_bits()
            if self._eight_bits_hold:
                return "int8"
        return str(self.backbone.dtype).removeprefix("torch.")

    @property
    def layer_count(self) -> int:
        """Number of decoder layers."""
        return int(self.backbone.config.num_hidden_layers)

    def dimension(self, strategy: Strategy) -> int:
        """Dimension of a strategy's vectors before after-processing."""
        return int(self.backbone.config.hidden_size) * (2 if strategy.pooling == "last_mean" else 1) * strategy.parts

    def check(self, strategies: Iterable[Strategy]) -> None:
        """Check that strategies fit the model.

        Raises:
            StrategyError: If one does not, or two strategies have the same name.
            TemplateError: If a template leaves no room for a text.
        """
        names: set[str] = set()
        for strategy in strategies:
            if strategy.name in names:
                msg = f"two strategies are named {strategy.name!r}; give them different names"
                raise StrategyError(msg)
            names.add(strategy.name)
            strategy.check(self.layer_count, int(self.backbone.config.num_attention_heads))
            for template in strategy.templates:
                template.frame(self.tokenizer, self.max_length)

    def encode(self, texts: Iterable[str], strategy: Strategy | None = None, *, progress: bool = True) -> np.ndarray:
        """Embed texts with one strategy.

        Args:
            texts: Texts to embed, in any order and of any length.
            strategy: The strategy; ``None`` is the embedder's own.
            progress: Whether to show a progress bar on stderr.

        Returns:
            Float32 array ``[N, D]`` in input order.

        Raises:
            TypeError: If a text is not a string.
            StrategyError: If the strategy does not fit the model.
        """
        strategy = strategy or self.strategy
        return self.encode_strategies(texts, [strategy], progress=progress)[strategy.name]

    def encode_strategies(self, texts: Iterable[str], strategies: Iterable[Strategy], *, progress: bool = True) -> dict[str, np.ndarray]:
        """Embed texts with several strategies, at little more than the cost of one.

        All poolings and layers of a template come from one pass; templates with the same words before the text share the computation of
        prefix and text, so that only their suffixes are computed separately. Equal texts are embedded once. Layers above the highest one
        needed are not computed.

        Args:
            texts: Texts to embed, in any order and of any length.
            strategies: The strategies.
            progress: Whether to show a progress bar on stderr.

        Returns:
            A float32 array ``[N, D]`` in input order, by name of the strategy.

        Raises:
            TypeError: If a text is not a string.
            StrategyError: If a strategy does not fit the model.
        """
        strategies, texts = list(strategies), checked_texts(texts)
        self.check(strategies)
        unique = list(dict.fromkeys(texts))
        vectors = {s.name: np.zeros((len(unique), self.dimension(s)), np.float32) for s in strategies}  # [U, D]
        if unique and strategies:
            if self.can_pack():
                layers = self._layers_in_eight_bits() if self.number_format == "int8" else None
                self._encode_packed(unique, strategies, vectors, progress=progress, within=layers.running() if layers else nullcontext())
            else:
                encode_one_by_one(self, unique, strategies, vectors, progress=progress)
        return with_repeats({s.name: finish_vectors(vectors.pop(s.name), s) for s in strategies}, unique, texts)

    def encode_to_shards(
        self,
        texts: Iterable[str],
        folder: str | Path,
        strategy: Strategy | None = None,
        *,
        shard_size: int = 8192,
        progress: bool = True,
        encode: Callable[[Sequence[str]], np.ndarray] | None = None,
    ) -> list[Path]:
        """Embed any number of texts in constant memory, writing one shard at a time.

        Equal texts in a shard are embedded once. Intact shards of an interrupted call with the same texts, weights and strategy are kept.

        Args:
            texts: Texts to embed; a generator is consumed lazily.
            folder: The folder for the shards.
            strategy: The strategy; ``None`` is the embedder's own.
            shard_size: Number of texts per shard.
            progress: Whether to show a progress bar for each shard.
            encode: Gives the vectors ``[n, D]`` of a shard's texts under the strategy, such as those that are known already; ``None`` is
                :meth:`encode`.

        Returns:
            The safetensors files in the order of the texts, each with a tensor ``vectors`` ``[n, D]``.

        Raises:
            TypeError: If a text is not a string.
        """
        strategy = strategy or self.strategy
        self.check([strategy])
        files = ShardFolder(Path(folder), self.vectors_identity(strategy))
        stream = iter(texts)
        shards: list[Path] = []
        if isinstance(texts, str):
            checked_texts(texts)
        while chunk := list(itertools.islice(stream, shard_size)):
            chunk = checked_texts(chunk, first=len(shards) * shard_size)
            shard = files.shard(len(shards), chunk)
            shards.append(shard.path)
            if not files.is_finished(shard):
                shard.write(encode(chunk) if encode else self.encode(chunk, strategy, progress=progress))
        return shards

    def fit(
        self, texts: Iterable[str], strategy: Strategy, steps: AfterSteps, *, targets: np.ndarray | None = None, progress: bool = True
    ) -> Strategy:
        """Fit after-processing on unlabelled texts.

        Args:
            texts: Unlabelled texts.
            strategy: The strategy whose vectors are processed.
            steps: The steps to fit.
            targets: A teacher's vectors of the texts, ``[N, T]``, if the steps distil (see
                :func:`~embedding_adaptation.vectors.teacher.teacher_vectors`).
            progress: Whether to show a progress bar.

        Returns:
            The strategy with fitted after-processing.
        """
        vectors = self.encode(texts, replace(strategy, after=None), progress=progress)
        return replace(strategy, after=AfterProcessing.fit(vectors, steps, strategy.parts, targets))

    def can_pack(self) -> bool:
        """Whether packed rows give this model's own results; tested once on a few tokens."""
        if self._packs is None:
            try:
                self._packs = packing_is_exact(self)
            except UnsupportedDecoderError as error:
                logger.info("packed rows: %s", error)
                self._packs = False
            if not self._packs:
                logger.warning("%s cannot be computed in packed rows; texts are embedded one by one", type(self.backbone).__name__)
        return self._packs

    def _encode_packed(
        self,
        texts: Sequence[str],
        strategies: Sequence[Strategy],
        vectors: dict[str, np.ndarray],
        *,
        progress: bool,
        within: AbstractContextManager[None],
    ) -> None:
        """Embed texts in packed rows; the rows, but not the prefixes before them, are computed within a context."""
        decoder = PackedDecoder(self.backbone)
        readings = self._readings(strategies)
        with (
            decoder.packing(),
            tqdm(total=len(texts) * len(readings), unit="text", desc="embed", disable=not progress) as bar,
        ):
            for reading in readings:
                reading.prefix = decoder.read_prefix(reading.tree.shared, reading.wanted)
                self.tokens_computed += len(reading.tree.shared)
            start, computed, said = time.perf_counter(), self.tokens_computed, not progress
            with within:
                lower = self._lower_states(decoder)
                for first in range(0, len(texts), _WINDOW):
                    text_ids = encode_texts(texts[first : first + _WINDOW], self.tokenizer)
                    expected = sum(reading.tree.width(len(ids)) for reading in readings for ids in text_ids) * len(texts) / len(text_ids)
                    for reading in readings:
                        for count in self._read_window(decoder, reading, text_ids, first, vectors, lower):
                            done, seconds = self.tokens_computed - computed, time.perf_counter() - start
                            bar.set_postfix_str(f"{done / seconds:,.0f} tokens/s", refresh=False)
                            bar.update(count)
                            if not said and seconds >= MEASURED:
                                said = True
                                if left := seconds_left(done, expected, seconds):
                                    logger.info("reading %d texts: about %s, at %.0f tokens/s", len(texts), duration(left), done / seconds)

    def _readings(self, strategies: Sequence[Strategy]) -> list[_Reading]:
        """One reading for each group of templates with the same beginning."""
        count = self.layer_count
        by_prefix: dict[tuple[int, ...], list[tuple[Strategy, Frame, slice]]] = {}
        for strategy in strategies:
            for template, columns in zip(strategy.templates, strategy.columns(self.dimension(strategy)), strict=True):
                frame = template.frame(self.tokenizer, self.max_length)
                by_prefix.setdefault(frame.prefix, []).append((strategy, frame, columns))
        readings = []
        for pairs in by_prefix.values():
            tree = PromptTree(tuple(dict.fromkeys(frame for _, frame, _ in pairs)))
            parts = [
                _Part(strategy, tree.frames.index(frame), strategy.hidden_layers(count), strategy.weighting_layers(count), columns)
                for strategy, frame, columns in pairs
            ]
            values = [part for part in parts if part.strategy.pooling == "value_weighted"]
            others = [part for part in parts if part.strategy.pooling != "value_weighted"]
            wanted = Wanted(
                hidden=frozenset(layer for part in others for layer in part.layers),
                attended=frozenset(layer for part in values for layer in part.layers),
                last_rows=frozenset(layer for part in others for layer in part.weighting_layers),
                only_last=all(part.strategy.pooling in _ONLY_LAST for part in parts),
            )
            readings.append(_Reading(tree, parts, wanted))
        return readings

    def lower_key(self) -> tuple[str, str, int] | None:
        """By what weights, format and layer :attr:`lower_memory` knows this embedder's states; ``None`` if it does not."""
        layer, base = self.layer_count // 2, self.identity_without_adapter
        if self.lower_memory is None or base is None or not layer or self.backbone.device.type != "cpu":
            return None
        return base, str(self.backbone.dtype), layer

    def _lower_states(self, decoder: PackedDecoder) -> tuple[LowerMemory, int, tuple[str, str, int]] | None:
        """Where the lower half's states are kept, up to which layer, and by what name; ``None`` if they are not."""
        key = self.lower_key()
        if self.lower_memory is None or key is None or not decoder.lean.fits or lowest_adapted(decoder.layers) < key[2]:
            return None
        return self.lower_memory, key[2], key

    def _read_window(
        self,
        decoder: PackedDecoder,
        reading: _Reading,
        text_ids: Sequence[Sequence[int]],
        first: int,
        vectors: dict[str, np.ndarray],
        lower: tuple[LowerMemory, int, tuple[str, str, int]] | None,
    ) -> Iterator[int]:
        """Read texts with one tree and add their strategies' vectors; yields the number of texts done."""
        tree = reading.tree
        if not tree.frames[0].prefix:
            text_ids = [ids or [fallback_id(self.tokenizer)] for ids in text_ids]
        rows = [tree.row(ids) for ids in text_ids]
        if lower is not None and reading.wanted.lowest < lower[1]:
            lower = None
        wanted = reading.wanted if lower is None else replace(reading.wanted, hidden=reading.wanted.hidden | {lower[1]})
        for batch in token_budget_batches([len(row) for row in rows], self.batch_tokens):
            widths = [len(rows[index]) for index in batch]
            groups = row_groups(widths, tree.layout_of_row)
            of_batch = [rows[index] for index in batch]
            known = None if lower is None else lower[0].of(lower[2], tree, of_batch)
            start = None if lower is None or known is None else (lower[1], known)
            result = decoder.run(of_batch, groups, reading.prefix, wanted, lower=start)
            if lower is not None and known is None:
                lower[0].add(lower[2], tree, of_batch, result.hidden[lower[1]])
            self.tokens_computed += sum(widths)
            for number, group in enumerate(groups):
                places = [first + index for index in batch[group.members]]
                pooler = _GroupPooler(tree, group, number, result, reading.prefix)
                for part in reading.parts:
                    vectors[part.strategy.name][places, part.columns] += pooler.pool(part).cpu().numpy()
            yield len(batch)

    def _layers_in_eight_bits(self) -> QuantisedLayers:
        """The 8-bit copies of the weights as they are now."""
        state = hash((self._weights_state(), quantisation_state(self.backbone)))
        if self._quantised is None or self._quantised[0] != state:
            self._quantised = None  # two copies need not fit into memory
            layers = QuantisedLayers(self.backbone)
            strategies = [Strategy("bare", PromptTemplate("bare", "{text}"), "last"), Strategy("prompted", DEFAULT_TEMPLATE, "last")]
            vectors = {strategy.name: np.zeros((len(_PROBE_TEXTS), self.dimension(strategy)), np.float32) for strategy in strategies}
            computed = self.tokens_computed
            self._encode_packed(_PROBE_TEXTS, strategies, vectors, progress=False, within=layers.calibrating())
            self.tokens_computed = computed
            self._quantised = (state, layers)
        return self._quantised[1]

    def _compare_eight_bits(self) -> bool:
        """Whether 8-bit products keep this model's vectors of a few texts."""
        if not self.can_pack() or not len(self._layers_in_eight_bits()):
            return False
        if self._by_name:
            return True
        upper = tuple(range(-max(1, self.layer_count // 4), 0))
        strategies = [Strategy(name, DEFAULT_TEMPLATE, name) for name in ("last", "text_mean")]
        strategies.append(Strategy("values", DEFAULT_TEMPLATE, "value_weighted", layers=upper))
        computed, vectors = self.tokens_computed, []
        for self._eight_bits_hold in (False, True):
            vectors.append(self.encode_strategies(_PROBE_TEXTS, strategies, progress=False))
        self.tokens_computed = computed
        least = min(float((vectors[0][s.name] * vectors[1][s.name]).sum(axis=1).min()) for s in strategies)
        if not least >= _LEAST_COSINE:
            logger.info(
                "%s is computed in float32: 8-bit products change its vectors to a cosine of %.4f", type(self.backbone).__name__, least
            )
            self._quantised = None
            return False
        return True

    def _weights_state(self) -> int:
        """A number that changes when weights are changed, added or replaced in memory, based on torch's version counters."""
        return hash((id(self.backbone), *(parameter._version for parameter in self.backbone.parameters())))  # noqa: SLF001

    def _identity_in_memory(self) -> str:
        weights = [
            [name, str(tensor.dtype), tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()]
            for name, tensor in self.backbone.state_dict().items()
        ]
        config = {name: str(value) for name, value in self.backbone.config.to_diff_dict().items() if name not in _IRRELEVANT}
        adapters = {name: adapter_settings(adapter.to_dict()) for name, adapter in getattr(self.backbone, "peft_config", {}).items()}
        return weights_identity(digest_of([weights, config, adapters, sorted(self.tokenizer.get_vocab().items())]))


@dataclass(frozen=True)
class _Part:
    """A strategy's part in a reading: the frame of the tree and the layers that it uses, and its columns of the strategy's vectors."""

    strategy: Strategy
    frame: int
    layers: tuple[int, ...]
    weighting_layers: tuple[int, ...]
    columns: slice


@dataclass
class _Reading:
    tree: PromptTree
    parts: list[_Part]
    wanted: Wanted
    prefix: Prefix = field(default_factory=Prefix)


class _GroupPooler:
    """Vectors of one group of rows with any strategy of its reading."""

    def __init__(self, tree: PromptTree, group: RowGroup, number: int, result: PassResult, prefix: Prefix) -> None:
        self.tree, self.group, self.number, self.result, self.prefix = tree, group, number, result, prefix
        self._means: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor | None]] = {}

    def pool(self, part: _Part) -> torch.Tensor:
        """The strategy's vectors, ``[n, D]`` float32; for an ensemble, this template's share of the mean, or its part."""
        vectors = self._pool(part).float()  # [n, D]
        if part.strategy.normalise:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors / part.strategy.templates_per_part

    def _pool(self, part: _Part) -> torch.Tensor:
        layout, pooling = self.group.layout, part.strategy.pooling
        text, last = layout.text[part.frame], layout.last[part.frame]
        if pooling == "value_weighted":
            return torch.stack([self._rows(self.result.attended[layer])[:, last].float() for layer in part.layers]).mean(dim=0)  # [n, D]
        rows, before = self._hidden(part.layers)  # [n, R, D], [P, D]
        empty = text.start == text.stop
        if pooling in {"last", "eos"} or (empty and pooling == "attention_weighted"):
            return rows[:, last]  # [n, D]
        if pooling == "attention_weighted":
            return weighted_mean_of(rows[:, text], self._text_weights(part, text))  # [n, D]
        if pooling == "text_mean" and not empty:
            return rows[:, text].float().mean(dim=1)  # [n, D]
        spans = [rows[:, : text.stop], rows[:, layout.suffix[part.frame]]]
        if before is not None:
            spans.insert(0, before.expand(len(rows), -1, -1))
        tokens = torch.cat(spans, dim=1)  # [n, T, D], the whole prompt
        real = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)  # [n, T]
        return POOLINGS[pooling](tokens, real, torch.zeros_like(real))  # [n, D]

    def _text_weights(self, part: _Part, text: slice) -> torch.Tensor:
        """The last token's attention to the text's tokens, averaged over layers and heads, ``[n, text]``."""
        shared = self.group.layout.shared
        columns = slice(shared + text.start, shared + text.stop)
        heads, layers = list(part.strategy.attention_heads), []
        for layer in part.weighting_layers:
            rows = self.result.last_rows[layer][self.number][:, :, part.frame, columns]  # [n, H, text]
            layers.append((rows[:, heads] if heads else rows).mean(dim=1))
        return torch.stack(layers).mean(dim=0)

    def _rows(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[self.group.span].unflatten(0, (self.group.count, self.group.layout.width))  # [n, R, D]

    def _hidden(self, layers: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token vectors of the rows ``[n, R, D]`` and of the prefix ``[P, D]``, averaged over layers."""
        if layers not in self._means:
            rows = [self._rows(self.result.hidden[layer]) for layer in layers]
            before = [self.prefix.hidden[layer] for layer in layers if layer in self.prefix.hidden]
            self._means[layers] = (
                rows[0] if len(rows) == 1 else torch.stack([row.float() for row in rows]).mean(dim=0),
                None if not before else before[0] if len(before) == 1 else torch.stack([one.float() for one in before]).mean(dim=0),
            )
        return self._means[layers]


def checked_texts(texts: Iterable[Any], *, first: int = 0) -> list[str]:
    """Return the texts as a list.

    Args:
        texts: The caller's texts.
        first: Index of the first one, for messages.

    Raises:
        TypeError: If ``texts`` is a single string, or contains something other than strings.
    """
    if isinstance(texts, str):
        msg = "texts is a single string; pass a list instead: [text]"
        raise TypeError(msg)
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            count = sum(not isinstance(other, str) for other in listed)
            msg = (
                f"texts[{first + index}] is {text!r} ({type(text).__name__}), not a string ({count} such of {len(listed)}); "
                "drop these texts or replace them with strings"
            )
            raise TypeError(msg)
    return listed


def with_repeats(vectors: dict[str, np.ndarray], unique: Sequence[str], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Vectors of texts by strategy, ``[N, D]``, from those of the distinct ones, ``[U, D]``; the same arrays if no text is repeated."""
    if len(unique) == len(texts):
        return vectors
    position = {text: index for index, text in enumerate(unique)}
    order = [position[text] for text in texts]
    return {name: matrix[order] for name, matrix in vectors.items()}


def finish_vectors(vectors: np.ndarray, strategy: Strategy) -> np.ndarray:
    """Finish vectors once all templates have been pooled: unit length, after-processing, unit length again.

    Args:
        vectors: ``[N, D]``, the mean over the strategy's templates, or their vectors side by side; left unchanged.
        strategy: The strategy; any after-processing is fitted.

    Returns:
        ``[N, D']``.
    """
    if strategy.normalise and len(strategy.templates) > 1:
        vectors = unit_vectors(vectors)
    if strategy.after is None:
        return vectors
    processed = np.ascontiguousarray(strategy.after.apply(vectors), dtype=np.float32)
    if strategy.normalise:
        unit_vectors(processed, out=processed)
    return processed
