"""Candidate pairs: planned, generated shard by shard, and recovered after a crash."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from embedding_adaptation.identity import digest_of, format_folder, tell_of_other_formats
from embedding_adaptation.pipelines.data_augmentation.generators.request import (
    Candidate,
    Context,
    Request,
    digest_fraction,
    load_generator,
)
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions, GeneratorName, GeneratorOptions
from embedding_adaptation.runtime import load_embedder

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


def generate(
    corpus: TextStream, done: Mapping[str, pd.DataFrame], options: AugmentationOptions, context: Context
) -> Iterator[dict[str, pd.DataFrame]]:
    """Generate the candidates that do not exist yet.

    Args:
        corpus: Clean texts.
        done: Shards of earlier runs.
        options: The generators and their options.
        context: What they need.

    Yields:
        One shard, ``{name: candidates}``, as soon as it is full.

    Raises:
        GenerationError: If a generator cannot work; the message says why and what to do. Shards yielded before are kept.
    """
    check_generators(options, context)
    for name, generator_options in options.generators.active.items():
        folder = folder_name(name, generator_options, corpus, context)
        shards = [shard for shard in done if shard.startswith(f"{folder}/") and not shard.endswith(f"/{COMPLETE}")]
        damaged = any(shard.startswith(f"{folder}/") for shard in getattr(done, "damaged", ()))
        if f"{folder}/{COMPLETE}" in done and not damaged:
            logger.info("%s: all candidates already exist", name)
            continue
        if (number := load_generator(name).format) > 1:
            tell_of_other_formats(f"candidate_pairs ({name})", (shard for shard in done if f"{name}-" in shard), number)
        used = {int(shard.rpartition("/")[2]) for shard in shards}
        free = (number for number in itertools.count() if number not in used)  # damaged shards are overwritten
        keys = _keys(done, shards)
        yield from _generate_missing(name, generator_options, corpus, keys, folder, free, options.shard_size, context)


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
        A shard's name, and those of its rows that are still planned, in the order of the shard.
    """
    for name, generator_options in options.generators.active.items():
        folder = folder_name(name, generator_options, corpus, context)
        planned = None
        if not load_generator(name).whole_corpus:
            planned = np.sort(np.fromiter((int(r.key, 16) for r in plan(corpus, name, generator_options, options.seed)), np.uint64))
        seen: set[int] = set()
        for shard in done:
            if not shard.startswith(f"{folder}/") or shard.endswith(f"/{COMPLETE}"):
                continue
            frame = done[shard]
            keys = frame["key"].map(lambda key: int(key, 16)).to_numpy(np.uint64)
            is_planned = np.ones(len(frame), bool) if planned is None else _contained(planned, keys)
            is_new = np.fromiter((key not in seen and not seen.add(key) for key in keys.tolist()), np.bool_, len(keys))  # type: ignore[func-returns-value]
            yield shard, frame[is_planned & is_new]


def _generate_missing(
    name: GeneratorName,
    options: GeneratorOptions,
    corpus: TextStream,
    keys: np.ndarray,
    folder: str,
    numbers: Iterator[int],
    shard_size: int,
    context: Context,
) -> Iterator[dict[str, pd.DataFrame]]:
    generator = load_generator(name)
    whole_corpus = generator.whole_corpus

    def missing() -> Iterator[Request]:
        for request in plan(corpus, name, options, context.seed):
            if whole_corpus or not _contained(keys, np.array([int(request.key, 16)], np.uint64))[0]:
                yield request

    total = None
    if not whole_corpus:
        planned = np.fromiter((int(r.key, 16) for r in plan(corpus, name, options, context.seed)), np.uint64)
        existing = int(_contained(keys, planned).sum())
        total = len(planned) - existing
        if existing:
            logger.info("%s: %d of %d candidates already exist and are kept", name, existing, len(planned))
        if not total:
            return
    model, revision = generator.provenance(options, context)
    provenance = {"model": model, "revision": revision, "seed": context.seed, "fingerprint": folder.rpartition("-")[2]}
    candidates = (
        candidate
        for candidate in generator.generate(missing(), options, context)
        if not whole_corpus or not _contained(keys, np.array([int(candidate.key, 16)], np.uint64))[0]
    )
    with tqdm(total=total, unit="pair" if whole_corpus else "text", desc=name, disable=not context.progress) as bar:
        try:
            for shard in _shards(candidates, shard_size, bar):
                yield {f"{folder}/{next(numbers):06d}": _frame(shard, name, provenance)}
        except _Interrupted as interrupted:
            if interrupted.rest:
                yield {f"{folder}/{next(numbers):06d}": _frame(interrupted.rest, name, provenance)}
            raise interrupted.error from None
    if whole_corpus:
        yield {f"{folder}/{COMPLETE}": _frame([], name, provenance)}


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
