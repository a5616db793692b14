"""Create the library's objects from the pipelines' typed options."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from embedding_adaptation.cluster.embedder import ClusterEmbedder
from embedding_adaptation.embedder.after_processing import AfterProcessing
from embedding_adaptation.embedder.embedder import Embedder, finish_vectors
from embedding_adaptation.embedder.lower_memory import LowerMemory
from embedding_adaptation.vectors.teacher import teacher_vectors
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from embedding_adaptation.embedder.strategy import Strategy
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import AfterOptions, EmbedderOptions, StrategyOptions


_READ_AT_ONCE = 8192  # texts
_FINISHED_AT_ONCE = 1 << 16  # vectors
# What the base model's lower half computed in one node need not be computed by the adapted model in another.
_LOWER_MEMORY = LowerMemory()


class VectorMemory(Protocol):
    """Where vectors are kept by identity and text: :class:`~embedding_adaptation.datasets.embedding_store.EmbeddingStore`."""

    def missing(self, key: str, texts: Sequence[str]) -> list[str]:
        """The distinct texts that have no vector yet."""

    def add(self, key: str, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Keep vectors ``[N, D]`` of distinct texts."""

    def vectors(self, key: str, texts: Sequence[str]) -> np.ndarray:
        """Vectors ``[N, D]`` of texts that have some."""


def load_embedder(weights: DecoderWeights, options: EmbedderOptions, *, four_bit: bool = False) -> Embedder:
    """Load an embedder according to the options; with ``four_bit``, its linear layers are quantised to four bits.

    With ``embedder.cluster``, it leaves many texts to a cluster, except in four bits.
    """
    if options.cluster is not None and not four_bit:
        return ClusterEmbedder.on(
            options.cluster.settings,
            weights,
            device=options.device,
            dtype=options.dtype,
            max_length=options.max_length,
            batch_tokens=options.batch_tokens,
        )
    embedder = Embedder.load(
        weights,
        device=options.device,
        dtype=options.dtype,
        max_length=options.max_length,
        batch_tokens=options.batch_tokens,
        four_bit=four_bit,
    )
    if not four_bit:
        embedder.lower_memory = _LOWER_MEMORY
    return embedder


def build_strategy(name: str, options: EmbedderOptions) -> Strategy:
    """The strategy of this name, without after-processing."""
    return options.strategy(name, options.every_strategy[name])


def read_once(
    embedder: Embedder,
    texts: Sequence[str],
    strategies: Sequence[Strategy],
    memory: VectorMemory | None = None,
    *,
    without_adapter: bool = False,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Vectors of texts, each read once by the same weights under the same strategy, whichever pipeline asks.

    Args:
        embedder: The weights.
        texts: The texts.
        strategies: Strategies without after-processing.
        memory: Where vectors are kept; ``None`` reads all texts.
        without_adapter: Switch the embedder's adapter off.
        progress: Whether to show a progress bar.

    Returns:
        ``[N, D]`` in the order of the texts, by name of the strategy.
    """
    switch: AbstractContextManager[None] = base_weights(embedder) if without_adapter else nullcontext()
    weights = embedder.identity_without_adapter if without_adapter else embedder.identity
    if memory is None or weights is None:
        with switch:
            return embedder.encode_strategies(texts, strategies, progress=progress)
    keys = {strategy.name: embedder.vectors_identity(strategy, weights=weights) for strategy in strategies}
    unread = {strategy.name: tuple(memory.missing(keys[strategy.name], texts)) for strategy in strategies}
    with switch:
        for missing in dict.fromkeys(filter(None, unread.values())):  # strategies that lack the same texts share a pass
            together = [strategy for strategy in strategies if unread[strategy.name] == missing]
            for start in range(0, len(missing), _READ_AT_ONCE):  # what has been read is kept if the rest fails
                block = missing[start : start + _READ_AT_ONCE]
                for name, vectors in embedder.encode_strategies(block, together, progress=progress).items():
                    memory.add(keys[name], block, vectors)
    return {name: memory.vectors(key, texts) for name, key in keys.items()}


def read_known(embedder: Embedder, texts: Sequence[str], strategy: Strategy, memory: VectorMemory, *, progress: bool = True) -> np.ndarray:
    """Vectors ``[N, D]`` of texts, read only where they are not known; unlike :func:`read_once`, this keeps nothing.

    Args:
        embedder: The weights.
        texts: The texts.
        strategy: The strategy, with its after-processing fitted.
        memory: Where vectors may be.
        progress: Whether to show a progress bar.
    """
    plain = replace(strategy, after=None)
    key = embedder.vectors_identity(plain)
    unread = set(memory.missing(key, texts))
    known = [text for text in texts if text not in unread]
    if not known:
        return embedder.encode(texts, strategy, progress=progress)
    missing = [text for text in texts if text in unread]
    kept = memory.vectors(key, known)
    vectors = np.empty((len(texts), kept.shape[1]), np.float32)
    is_known = np.array([text not in unread for text in texts])
    vectors[is_known] = kept
    if missing:
        vectors[~is_known] = embedder.encode(missing, plain, progress=progress)
    return finish_vectors(vectors, strategy)


def fitted_strategies(
    embedder: Embedder,
    strategies: Mapping[str, StrategyOptions],
    options: EmbedderOptions,
    fitting_texts: Callable[[], list[str]],
    memory: VectorMemory | None = None,
) -> list[Strategy]:
    """Strategies with their after-processing fitted.

    Args:
        embedder: The weights to fit with.
        strategies: Strategies by name.
        options: The templates, and the teacher of strategies that are distilled.
        fitting_texts: Returns unlabelled texts; called only if a strategy needs them.
        memory: Where their vectors are kept.

    Returns:
        The strategies, in the order given.
    """
    unfitted = {name: options.strategy(name, strategy) for name, strategy in strategies.items()}
    to_fit = {name: strategy.after for name, strategy in strategies.items() if strategy.after.title}
    if not to_fit:
        return list(unfitted.values())
    texts = list(dict.fromkeys(fitting_texts()))
    vectors = read_once(embedder, texts, [unfitted[name] for name in to_fit], memory)
    teacher = options.every_strategy[options.teacher.strategy] if any(after.distil for after in to_fit.values()) else None
    targets: dict[str, np.ndarray] = {}
    for weights in dict.fromkeys(strategies[name].weights for name, after in to_fit.items() if after.distil):
        same = [name for name in to_fit if strategies[name] == teacher.model_copy(update={"weights": weights})] if teacher else []
        is_read = weights == "adapted" or not has_adapter(embedder)
        read = vectors[same[0]] if same and is_read else None
        targets[weights] = teacher_targets(embedder, texts, options, weights=weights, vectors=read, memory=memory)
    fitted = {
        name: fit_after(vectors[name], after, options, unfitted[name].parts, targets.get(strategies[name].weights))
        for name, after in to_fit.items()
    }
    return [replace(strategy, after=fitted[name]) if name in fitted else strategy for name, strategy in unfitted.items()]


def fit_after(
    vectors: np.ndarray, after: AfterOptions, options: EmbedderOptions, parts: int, targets: np.ndarray | None = None
) -> AfterProcessing:
    """Fit a strategy's after-processing.

    Args:
        vectors: ``[N, D]`` of unlabelled texts, without after-processing.
        after: What to fit.
        options: The teacher's penalty.
        parts: Number of parts of the vectors.
        targets: The teacher's vectors of the same texts, for a strategy that is distilled.

    Raises:
        AfterProcessingError: If there are too few texts.
    """
    steps = replace(after.steps, distil=options.teacher.ridge) if after.distil else after.steps
    return AfterProcessing.fit(vectors, steps, parts, targets)


def processed_vectors(
    vectors: np.ndarray,
    chosen: StrategyOptions,
    options: EmbedderOptions,
    *,
    fitted_on: int | None = None,
    targets: np.ndarray | None = None,
) -> np.ndarray:
    """Vectors with a strategy's after-processing, fitted on themselves.

    Args:
        vectors: ``[N, D]`` without after-processing.
        chosen: The strategy.
        options: The templates, and the teacher's penalty.
        fitted_on: Fit on this many of the first vectors; ``None`` fits on all.
        targets: The teacher's vectors of the texts it is fitted on, for a strategy that is distilled.

    Raises:
        AfterProcessingError: If there are too few texts.
    """
    if not chosen.after.title:
        return vectors
    strategy = options.strategy("unfitted", chosen)
    fitted = replace(strategy, after=fit_after(vectors[:fitted_on], chosen.after, options, strategy.parts, targets))
    # In blocks, because every step makes a copy.
    first = finish_vectors(vectors[:_FINISHED_AT_ONCE], fitted)
    if len(first) == len(vectors):
        return first
    finished = np.empty((len(vectors), first.shape[1]), first.dtype)
    finished[: len(first)] = first
    for start in range(len(first), len(vectors), _FINISHED_AT_ONCE):
        finished[start : start + _FINISHED_AT_ONCE] = finish_vectors(vectors[start : start + _FINISHED_AT_ONCE], fitted)
    return finished


def teacher_targets(
    embedder: Embedder,
    texts: Sequence[str],
    options: EmbedderOptions,
    *,
    weights: Literal["base", "adapted"] = "base",
    vectors: np.ndarray | None = None,
    memory: VectorMemory | None = None,
    progress: bool = True,
) -> np.ndarray:
    """The teacher's vectors of texts, ``[N, T]``.

    Training and strategies of the base weights learn from the base weights and the texts' words. Strategies of adapted weights learn from
    the same templates under the adapted weights as well: training has kept of words what agrees with the rest.

    Args:
        embedder: The weights.
        texts: The texts.
        options: The teacher.
        weights: ``base`` switches an adapter off; ``adapted`` takes the embedder as it is, too.
        vectors: Those of the teacher's strategy under these weights, without after-processing, if the texts have been read already.
        memory: Where vectors are kept.
        progress: Whether to show a progress bar.
    """
    chosen = options.every_strategy[options.teacher.strategy]
    strategy = options.strategy(options.teacher.strategy, chosen)

    def view(read: np.ndarray | None, *, without_adapter: bool) -> np.ndarray:
        if read is None:
            read = read_once(embedder, texts, [strategy], memory, without_adapter=without_adapter, progress=progress)[strategy.name]
        return unit_vectors(processed_vectors(read, chosen, options))

    views = [view(vectors if weights == "base" else None, without_adapter=True)]
    if weights == "adapted":
        views.append(view(vectors, without_adapter=False))
    return teacher_vectors(np.concatenate(views, axis=1), texts, **options.teacher.steps)


def has_adapter(embedder: Embedder) -> bool:
    """Whether an embedder has an adapter that is not merged."""
    return hasattr(embedder.backbone, "peft_config")


@contextmanager
def base_weights(embedder: Embedder) -> Iterator[None]:
    """Switch an embedder's adapter off, if it has one."""
    disabled = embedder.backbone.disable_adapter() if has_adapter(embedder) else nullcontext()
    with disabled:
        yield
