"""Candidate pairs: planned, made shard by shard, found again after a crash."""

from __future__ import annotations

import importlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from embedding_adaptation.identity import digest_of, files_sha256, format_folder, tell_of_other_formats, texts_in_order
from embedding_adaptation.paths import project_path
from embedding_adaptation.pipelines.data_augmentation.generators.request import (
    Candidate,
    Context,
    Generator,
    Request,
    digest_fraction,
)
from embedding_adaptation.pipelines.data_augmentation.options import (
    AugmentationOptions,
    BackTranslationOptions,
    GeneratorName,
    GeneratorOptions,
    GivenOptions,
    NeighboursOptions,
    RewriteOptions,
)
from embedding_adaptation.runtime import load_embedder

if TYPE_CHECKING:
    from embedding_adaptation.datasets.chat_server import ChatServerKey
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.texts.stream import TextStream

logger = logging.getLogger(__name__)

# How much is done at once, and how often it is tried: nothing that changes what comes out.
_SPEED = {"weight", "memory_mb", "batch_size", "batch_tokens", "server.concurrency", "server.timeout", "server.retries"}
# Pairs that follow from the corpus or a file as a whole: not planned one by one, but made in one go.
_WHOLE: frozenset[GeneratorName] = frozenset({"neighbours", "given"})
# A second turn would be the first again.
_ALWAYS_ALIKE: frozenset[GeneratorName] = frozenset({"back_translation", "identity"})
# Counted up where a generator begins to make other pairs of the same texts and options, or these are named otherwise.
_FORMATS: Mapping[GeneratorName, int] = {"neighbours": 2}
COMPLETE = "complete"


def make_context(
    base_model: DecoderWeights,
    options: AugmentationOptions,
    embedder_options: EmbedderOptions,
    server_key: ChatServerKey | None = None,
) -> Context:
    """What generators may need; the embedder is loaded when it is first asked for."""

    @cache
    def embedder() -> Embedder:
        return load_embedder(base_model, embedder_options)

    return Context(options.seed, base_model, embedder_options, embedder, server_key)


def check_generators(options: AugmentationOptions, context: Context) -> None:
    """Check before any work what can be checked without it.

    Raises:
        GenerationError: If a chosen generator cannot work; the message says why and what to do.
    """
    for name, chosen in options.generators.chosen.items():
        check = getattr(_module(name), "check", None)
        if check is not None:
            check(chosen, context.base_model) if name == "rewrite" else check(chosen)


def generate(
    corpus: TextStream, done: Mapping[str, pd.DataFrame], options: AugmentationOptions, context: Context
) -> Iterator[dict[str, pd.DataFrame]]:
    """Make the candidates that are not there yet.

    Args:
        corpus: Clean texts.
        done: Shards of earlier runs.
        options: Which generators, and how.
        context: What they need.

    Yields:
        One shard, ``{name: candidates}``, as soon as it is full.

    Raises:
        GenerationError: If a generator cannot work; the message says why and what to do. Shards yielded before are kept.
    """
    check_generators(options, context)
    for name, chosen in options.generators.chosen.items():
        folder = folder_name(name, chosen, corpus, context)
        shards = [shard for shard in done if shard.startswith(f"{folder}/") and not shard.endswith(f"/{COMPLETE}")]
        damaged = any(shard.startswith(f"{folder}/") for shard in getattr(done, "damaged", ()))
        if f"{folder}/{COMPLETE}" in done and not damaged:
            logger.info("%s: all candidates are there already", name)
            continue
        if name in _FORMATS:
            tell_of_other_formats(f"candidate_pairs ({name})", (shard for shard in done if f"{name}-" in shard), _FORMATS[name])
        taken = {int(shard.rpartition("/")[2]) for shard in shards}
        free = (number for number in itertools.count() if number not in taken)  # damaged ones are written over
        keys = _keys(done, shards)
        yield from _make(name, chosen, corpus, keys, folder, free, options.shard_size, context)


def plan(corpus: TextStream, name: GeneratorName, options: GeneratorOptions, seed: int) -> Iterator[Request]:
    """Which texts a generator gets, how often and in which styles.

    All of it follows from each text alone, so that texts may come, go and change their order without a change for the others.
    """
    styles = list(options.styles) if isinstance(options, RewriteOptions) else [""]
    whole = name in _WHOLE
    for source_id, text in corpus.rows():
        count = 1 if whole else int(options.weight + digest_fraction(seed, name, text))
        count = min(count, 1) if name in _ALWAYS_ALIKE else count
        first = int(digest_fraction(seed, "style", text) * len(styles))
        for turn in range(count):
            yield Request.of(source_id, text, turn, styles[(first + turn) % len(styles)])


def folder_name(name: GeneratorName, options: GeneratorOptions, corpus: TextStream, context: Context) -> str:
    """Where a generator's shards lie: changes with everything that decides what it makes of a text."""
    chosen = _without_speed(options.model_dump(mode="json"))
    parts: list[Any] = [name, chosen, context.seed]
    if isinstance(options, RewriteOptions) and options.server is None:
        parts.append(context.base_model.card.sha256)
    if isinstance(options, NeighboursOptions):
        used = context.embedder_options
        templates = [used.template(template) for template in chosen.pop("templates")]
        parts += [context.base_model.card.sha256, used.max_length, options.weight, templates]
        parts.append(texts_in_order(text for _, text in corpus.rows()))
    if isinstance(options, GivenOptions):
        path = project_path(options.path)
        parts += [files_sha256([path]) if path.is_file() else "", options.weight]
    folder = f"{name}-{digest_of(parts)[:12]}"
    return f"{format_folder(_FORMATS[name])}/{folder}" if name in _FORMATS else folder


def present(
    corpus: TextStream, done: Mapping[str, pd.DataFrame], options: AugmentationOptions, context: Context
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The candidates that belong to these texts and options, shard by shard, each once.

    Yields:
        A shard's name, and its rows whose request is still made today. Rows keep the order they have in the shard.
    """
    for name, chosen in options.generators.chosen.items():
        folder = folder_name(name, chosen, corpus, context)
        planned = None
        if name not in _WHOLE:
            planned = np.sort(np.fromiter((int(r.key, 16) for r in plan(corpus, name, chosen, options.seed)), np.uint64))
        seen: set[int] = set()
        for shard in done:
            if not shard.startswith(f"{folder}/") or shard.endswith(f"/{COMPLETE}"):
                continue
            frame = done[shard]
            keys = frame["key"].map(lambda key: int(key, 16)).to_numpy(np.uint64)
            mine = np.ones(len(frame), bool) if planned is None else _contained(planned, keys)
            fresh = np.fromiter((key not in seen and not seen.add(key) for key in keys.tolist()), np.bool_, len(keys))  # type: ignore[func-returns-value]
            yield shard, frame[mine & fresh]


def _make(
    name: GeneratorName,
    options: GeneratorOptions,
    corpus: TextStream,
    keys: np.ndarray,
    folder: str,
    numbers: Iterator[int],
    shard_size: int,
    context: Context,
) -> Iterator[dict[str, pd.DataFrame]]:
    def missing() -> Iterator[Request]:
        for request in plan(corpus, name, options, context.seed):
            if name in _WHOLE or not _contained(keys, np.array([int(request.key, 16)], np.uint64))[0]:
                yield request

    total = None
    if name not in _WHOLE:
        planned = np.fromiter((int(r.key, 16) for r in plan(corpus, name, options, context.seed)), np.uint64)
        there = int(_contained(keys, planned).sum())
        total = len(planned) - there
        if there:
            logger.info("%s: %d of %d candidates are there already and are kept", name, there, len(planned))
        if not total:
            return
    provenance = _provenance(name, options, context) | {"fingerprint": folder.rpartition("-")[2]}
    generator: Generator[Any] = _module(name).generate
    fresh = (
        candidate
        for candidate in generator(missing(), options, context)
        if name not in _WHOLE or not _contained(keys, np.array([int(candidate.key, 16)], np.uint64))[0]
    )
    with tqdm(total=total, unit="text" if name not in _WHOLE else "pair", desc=name, disable=not context.progress) as bar:
        try:
            for shard in _shards(fresh, shard_size, bar):
                yield {f"{folder}/{next(numbers):06d}": _frame(shard, name, provenance)}
        except _Interrupted as interrupted:
            if interrupted.rest:
                yield {f"{folder}/{next(numbers):06d}": _frame(interrupted.rest, name, provenance)}
            raise interrupted.error from None
    if name in _WHOLE:
        yield {f"{folder}/{COMPLETE}": _frame([], name, provenance)}


class _Interrupted(Exception):  # noqa: N818  no error of its own
    def __init__(self, error: Exception, rest: list[Candidate]) -> None:
        super().__init__(str(error))
        self.error = error
        self.rest = rest


def _shards(candidates: Iterator[Candidate], size: int, bar: Any) -> Iterator[list[Candidate]]:
    """Candidates in lists of ``size``; what is there when a generator fails is not lost.

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


def _provenance(name: GeneratorName, options: GeneratorOptions, context: Context) -> dict[str, Any]:
    """Whose words these are: model and revision of generators that have one."""
    model, revision = "", ""
    if isinstance(options, RewriteOptions) and options.server is not None:
        model, revision = options.server.model, options.server.url
    elif isinstance(options, BackTranslationOptions):
        model = f"{options.there} + {options.back}"
    elif isinstance(options, GivenOptions):
        model = options.path
    elif name in {"rewrite", "neighbours"}:
        model, revision = context.base_model.card.source, context.base_model.card.sha256
    return {"model": model, "revision": revision, "seed": context.seed}


def _keys(done: Mapping[str, pd.DataFrame], shards: Iterable[str]) -> np.ndarray:
    """Keys of the candidates that are there, sorted, eight bytes each."""
    found = [done[shard]["key"].map(lambda key: int(key, 16)).to_numpy(np.uint64) for shard in shards]
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.uint64)


def _contained(ordered: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which keys are among the sorted ones."""
    if not len(ordered):
        return np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.asarray(ordered[places] == keys)


def _without_speed(options: dict[str, Any], path: str = "") -> dict[str, Any]:
    kept = {}
    for field, value in options.items():
        if path + field not in _SPEED:
            kept[field] = _without_speed(value, f"{path}{field}.") if isinstance(value, dict) else value
    return kept


def _module(name: GeneratorName) -> Any:
    return importlib.import_module(f"{__package__}.generators.{name}")
