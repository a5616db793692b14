"""Candidate pairs: planned, generated shard by shard, and recovered after a crash."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from embedding_adaptation.identity import digest_of, format_folder, tell_of_other_formats
from embedding_adaptation.pipelines.data_augmentation import budget
from embedding_adaptation.pipelines.data_augmentation.generators.request import (
    Candidate,
    Context,
    Request,
    digest_fraction,
    load_generator,
)
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions, GeneratorName, GeneratorOptions
from embedding_adaptation.runtime import load_embedder
from embedding_adaptation.wording import budget_sentences

if TYPE_CHECKING:
    from embedding_adaptation.datasets.chat_server import ChatServerKey
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.runtime import VectorMemory
    from embedding_adaptation.texts.stream import TextStream

logger = logging.getLogger(__name__)

COMPLETE = "complete"


def make_context(
    base_model: DecoderWeights,
    options: AugmentationOptions,
    embedder_options: EmbedderOptions,
    server_key: ChatServerKey | None = None,
    memory: VectorMemory | None = None,
) -> Context:
    """What generators may need; the embedder is loaded on first use."""

    @cache
    def embedder() -> Embedder:
        return load_embedder(base_model, embedder_options)

    return Context(options.seed, base_model, embedder_options, embedder, server_key, memory=memory)


def check_generators(options: AugmentationOptions, context: Context) -> None:
    """Check that all active generators can work, before any of them starts.

    Raises:
        GenerationError: If one cannot work; the message says why and what to do.
    """
    for name, generator_options in options.generators.active.items():
        load_generator(name).check(generator_options, context)


class MissingBudgetError(RuntimeError):
    """Candidates of which another budget has chosen; the message says what to do."""


def generate(
    corpus: TextStream,
    done: Mapping[str, pd.DataFrame],
    options: AugmentationOptions,
    context: Context,
    trained: int | None = None,
) -> Iterator[dict[str, pd.DataFrame]]:
    """Generate the candidates that do not exist yet.

    With a budget, language models come last, and write only as much as the others' pairs leave room for (:class:`~.budget.Rounds`).

    Args:
        corpus: Clean texts.
        done: Shards of earlier runs.
        options: The generators and their options.
        context: What they need.
        trained: Pairs that training reads, for ``budget: training``; ``None`` sets no budget then.

    Yields:
        One shard, ``{name: candidates}``, as soon as it is full.

    Raises:
        GenerationError: If a generator cannot work; the message says why and what to do. Shards yielded before are kept.
    """
    check_generators(options, context)
    pairs = budget.wanted_pairs(options, trained)
    written = [] if pairs is None else [name for name in options.generators.active if load_generator(name).is_written]
    given = budget.Given()
    for name in options.generators.active:
        if name not in written:
            from_corpus = load_generator(name).from_corpus
            if written:
                for _, frame in _present_of(name, corpus, done, options, context):
                    given.add(frame, from_corpus=from_corpus)
            for shard in _generate_all(name, corpus, done, options, context):
                if written:
                    for frame in shard.values():
                        given.add(frame, from_corpus=from_corpus)
                yield shard
    for name in written:
        yield from _generate_within(name, corpus, done, options, context, given, pairs or 0)


def _generate_all(
    name: GeneratorName, corpus: TextStream, done: Mapping[str, pd.DataFrame], options: AugmentationOptions, context: Context
) -> Iterator[dict[str, pd.DataFrame]]:
    """The candidates of a generator that do not exist yet."""
    generator_options = options.generators.active[name]
    folder = folder_name(name, generator_options, corpus, context)
    damaged = any(shard.startswith(f"{folder}/") for shard in getattr(done, "damaged", ()))
    if f"{folder}/{COMPLETE}" in done and not damaged:
        logger.info("%s: all candidates already exist", name)
        return
    yield from _Making(name, corpus, done, options, context).missing(lambda: plan(corpus, name, generator_options, context.seed))


def _generate_within(
    name: GeneratorName,
    corpus: TextStream,
    done: Mapping[str, pd.DataFrame],
    options: AugmentationOptions,
    context: Context,
    given: budget.Given,
    pairs: int,
) -> Iterator[dict[str, pd.DataFrame]]:
    """The candidates of a generator that do not exist yet and for which there is room; then what was chosen."""
    active = options.generators.active
    weights = [generator.weight for other, generator in active.items() if load_generator(other).is_written]
    room = max(0, pairs - given.pairs) * active[name].weight / sum(weights)
    making = _Making(name, corpus, done, options, context)
    rounds = budget.Rounds(lambda: plan(corpus, name, active[name], context.seed), math.ceil(room), given, options.filters, context.seed)
    for requests in rounds:
        for frame in making.existing({request.key for request in requests}):
            rounds.add(frame)
        for shard in making.missing(partial(iter, requests)):
            for frame in shard.values():
                rounds.add(frame)
            yield shard
    chosen = budget.marker(rounds.keys, len(rounds), pairs)
    for line in budget_sentences({name: budget.facts(chosen)}):
        logger.info("%s", line)
    marker = _marker_name(name, corpus, options, context)
    if marker not in done or budget.facts(done[marker]) != budget.facts(chosen) or list(done[marker]["keys"].iloc[0]) != rounds.keys:
        yield {marker: chosen}


def plan(corpus: TextStream, name: GeneratorName, options: GeneratorOptions, seed: int) -> Iterator[Request]:
    """Plan which texts a generator gets, how often and in which styles.

    The plan for a text depends only on the text itself, so that texts can be added, removed or reordered without affecting the others.
    """
    generator, styles = load_generator(name), options.style_names
    for source_id, text in corpus.rows():
        count = 1 if generator.whole_corpus else int(options.weight + digest_fraction(seed, name, text))
        count = count if generator.repeatable else min(count, 1)
        first = int(digest_fraction(seed, "style", text) * len(styles))
        for turn in range(count):
            yield Request.of(source_id, text, turn, styles[(first + turn) % len(styles)])


def folder_name(name: GeneratorName, options: GeneratorOptions, corpus: TextStream, context: Context) -> str:
    """The folder of a generator's shards, whose name changes with everything that affects its candidates."""
    generator = load_generator(name)
    relevant = _without(options.model_dump(mode="json"), options.irrelevant)
    folder = f"{name}-{digest_of([name, relevant, context.seed, *generator.identity(options, corpus, context)])[:12]}"
    return f"{format_folder(generator.format)}/{folder}" if generator.format > 1 else folder  # the first format had no folder of its own


def present(
    corpus: TextStream, done: Mapping[str, pd.DataFrame], options: AugmentationOptions, context: Context
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The candidates that belong to these texts and options, shard by shard, each once.

    Yields:
        A shard's name, and those of its rows that are still planned, and that the budget chose if there was one, in the order of the shard.

    Raises:
        MissingBudgetError: If a budget chose under other options, and none under these.
    """
    for name in options.generators.active:
        yield from _present_of(name, corpus, done, options, context)


def budgets(
    corpus: TextStream, done: Mapping[str, pd.DataFrame], options: AugmentationOptions, context: Context
) -> dict[str, dict[str, Any]]:
    """What a budget chose, by generator: ``rewritten`` of ``planned`` texts, as ``pairs`` were wanted.

    Raises:
        MissingBudgetError: If something was chosen under other options, and nothing under these.
    """
    found = {name: _chosen(name, corpus, done, options, context) for name in options.generators.active}
    return {name: budget.facts(chosen) for name, chosen in found.items() if chosen is not None}


def _chosen(
    name: GeneratorName, corpus: TextStream, done: Mapping[str, pd.DataFrame], options: AugmentationOptions, context: Context
) -> pd.DataFrame | None:
    """What the budget chose; ``None`` if there was none, so that all that is planned counts."""
    if options.budget is None or not load_generator(name).is_written:
        return None
    marker = _marker_name(name, corpus, options, context)
    if marker in done:
        return done[marker]
    if any(shard.startswith(f"{marker.rpartition('-')[0]}-") for shard in done):
        msg = (
            f"the candidates of {name!r} were chosen for other texts or options; run data_augmentation as a whole, or set "
            "data_augmentation.budget=null"
        )
        raise MissingBudgetError(msg)
    return None


def _marker_name(name: GeneratorName, corpus: TextStream, options: AugmentationOptions, context: Context) -> str:
    folders = {other: folder_name(other, chosen, corpus, context) for other, chosen in options.generators.active.items()}
    return budget.marker_name(folders[name], corpus, options, folders.values())


def _present_of(
    name: GeneratorName, corpus: TextStream, done: Mapping[str, pd.DataFrame], options: AugmentationOptions, context: Context
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The candidates of one generator; see :func:`present`."""
    generator_options = options.generators.active[name]
    folder = folder_name(name, generator_options, corpus, context)
    planned = None
    if (chosen := _chosen(name, corpus, done, options, context)) is not None:
        planned = np.sort(np.fromiter((int(key, 16) for key in chosen["keys"].iloc[0]), np.uint64))
    elif not load_generator(name).whole_corpus:
        planned = np.sort(np.fromiter((int(r.key, 16) for r in plan(corpus, name, generator_options, options.seed)), np.uint64))
    seen: set[int] = set()
    for shard in _shards_of(folder, done):
        frame = done[shard]
        keys = frame["key"].map(lambda key: int(key, 16)).to_numpy(np.uint64)
        is_planned = np.ones(len(frame), bool) if planned is None else _contained(planned, keys)
        is_new = np.fromiter((key not in seen and not seen.add(key) for key in keys.tolist()), np.bool_, len(keys))  # type: ignore[func-returns-value]
        yield shard, frame[is_planned & is_new]


def _shards_of(folder: str, done: Iterable[str]) -> list[str]:
    """Shards that hold candidates."""
    return [shard for shard in done if shard.startswith(f"{folder}/") and shard.rpartition("/")[2].isdecimal()]


class _Making:
    """One generator's candidates: those that exist, and those that are missing, as numbered shards."""

    def __init__(
        self, name: GeneratorName, corpus: TextStream, done: Mapping[str, pd.DataFrame], options: AugmentationOptions, context: Context
    ) -> None:
        self._name, self._done, self._context = name, done, context
        self._options, self._size = options.generators.active[name], options.shard_size
        self._folder = folder_name(name, self._options, corpus, context)
        if (number := load_generator(name).format) > 1:
            tell_of_other_formats(f"candidate_pairs ({name})", (shard for shard in done if f"{name}-" in shard), number)
        self._shards = _shards_of(self._folder, done)
        used = {int(shard.rpartition("/")[2]) for shard in self._shards}
        self._free = (number for number in itertools.count() if number not in used)  # damaged shards are overwritten
        self._keys = _keys(done, self._shards)

    def existing(self, keys: set[str]) -> Iterator[pd.DataFrame]:
        """The candidates of earlier runs that have these keys, each once, shard by shard."""
        left = set(keys) if len(self._keys) else set()
        for shard in self._shards if left else ():
            frame = self._done[shard]
            found = frame[frame["key"].isin(left)].drop_duplicates("key")
            left -= set(found["key"])
            yield found

    def missing(self, planned: Callable[[], Iterator[Request]]) -> Iterator[dict[str, pd.DataFrame]]:
        """Generate the candidates that do not exist yet.

        Args:
            planned: Begins the planned requests anew.

        Yields:
            One shard as soon as it is full.
        """
        generator = load_generator(self._name)
        whole_corpus = generator.whole_corpus

        def missing() -> Iterator[Request]:
            for request in planned():
                if whole_corpus or not _contained(self._keys, np.array([int(request.key, 16)], np.uint64))[0]:
                    yield request

        total = None
        if not whole_corpus:
            keys = np.fromiter((int(r.key, 16) for r in planned()), np.uint64)
            existing = int(_contained(self._keys, keys).sum())
            total = len(keys) - existing
            if existing:
                logger.info("%s: %d of %d candidates already exist and are kept", self._name, existing, len(keys))
            if not total:
                return
        model, revision = generator.provenance(self._options, self._context)
        provenance = {"model": model, "revision": revision, "seed": self._context.seed, "fingerprint": self._folder.rpartition("-")[2]}
        candidates = (
            candidate
            for candidate in generator.generate(missing(), self._options, self._context)
            if not whole_corpus or not _contained(self._keys, np.array([int(candidate.key, 16)], np.uint64))[0]
        )
        unit = "pair" if whole_corpus else "text"
        with tqdm(total=total, unit=unit, desc=self._name, disable=not self._context.progress) as bar:
            try:
                for shard in _shards(candidates, self._size, bar):
                    yield {self._next(): _frame(shard, self._name, provenance)}
            except _Interrupted as interrupted:
                if interrupted.rest:
                    yield {self._next(): _frame(interrupted.rest, self._name, provenance)}
                raise interrupted.error from None
        if whole_corpus:
            yield {f"{self._folder}/{COMPLETE}": _frame([], self._name, provenance)}

    def _next(self) -> str:
        return f"{self._folder}/{next(self._free):06d}"


class _Interrupted(Exception):  # noqa: N818  carries another error
    def __init__(self, error: Exception, rest: list[Candidate]) -> None:
        super().__init__(str(error))
        self.error = error
        self.rest = rest


def _shards(candidates: Iterator[Candidate], size: int, bar: Any) -> Iterator[list[Candidate]]:
    """Group candidates into lists of ``size``; if the generator fails, the unfinished list is not lost.

    Raises:
        _Interrupted: With the generator's error and the unfinished list.
    """
    shard: list[Candidate] = []
    while True:
        try:
            candidate = next(candidates, None)
        except Exception as error:
            raise _Interrupted(error, shard) from error
        if candidate is None:
            break
        shard.append(candidate)
        bar.update(1)
        if len(shard) == size:
            yield shard
            shard = []
    if shard:
        yield shard


def _frame(candidates: list[Candidate], name: GeneratorName, provenance: Mapping[str, Any]) -> pd.DataFrame:
    columns = {field: [getattr(candidate, field) for candidate in candidates] for field in Candidate.__dataclass_fields__}
    frame = pd.DataFrame(columns)
    strings = [field for field in columns if field not in {"finished", "own_score"}]
    frame[strings] = frame[strings].astype(str)
    return (
        frame.astype({"finished": bool, "own_score": float})
        .assign(generator=name, **provenance)
        .astype({"generator": str, "seed": "int64"})
    )


def _keys(done: Mapping[str, pd.DataFrame], shards: Iterable[str]) -> np.ndarray:
    """Sorted keys of the existing candidates, eight bytes each."""
    keys = [done[shard]["key"].map(lambda key: int(key, 16)).to_numpy(np.uint64) for shard in shards]
    return np.sort(np.concatenate(keys)) if keys else np.empty(0, np.uint64)


def _contained(ordered: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which keys occur among the sorted ones."""
    if not len(ordered):
        return np.zeros(len(keys), bool)
    positions = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.asarray(ordered[positions] == keys)


def _without(options: dict[str, Any], excluded: frozenset[str], path: str = "") -> dict[str, Any]:
    return {
        field: _without(value, excluded, f"{path}{field}.") if isinstance(value, dict) else value
        for field, value in options.items()
        if path + field not in excluded
    }
