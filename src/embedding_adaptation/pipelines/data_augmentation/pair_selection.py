"""From candidates to scores, and from scores to accepted and rejected pairs, in constant memory whatever the number of shards."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.identity import TextsIdentity, digest_of, format_folder, tell_of_other_formats, texts_in_order
from embedding_adaptation.pipelines.data_augmentation.candidates import budgets, present
from embedding_adaptation.pipelines.data_augmentation.filters import ACCEPTED, Positives, Report, judge
from embedding_adaptation.pipelines.data_augmentation.generators.request import load_generator
from embedding_adaptation.pipelines.data_augmentation.scoring import drift_reference, score
from embedding_adaptation.texts.stream import ParquetWriter, TableStream

if TYPE_CHECKING:
    import numpy as np

    from embedding_adaptation.pipelines.data_augmentation.generators.request import Context
    from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions, DriftFilter
    from embedding_adaptation.texts.stream import TextStream

logger = logging.getLogger(__name__)

_FORMAT = 3  # increased when scores of the same candidates change their meaning
_SORTED_AT_ONCE = 50_000
PAIR_COLUMNS = (
    "pair_id", "source_id", "source_text", "generated_text", "generator", "style", "other_id", "model", "revision", "seed", "fingerprint",
    "corpus",
)  # fmt: skip


class MissingScoresError(RuntimeError):
    """Candidates without scores; the message says what to do."""


def score_shards(
    corpus: TextStream,
    candidates: Mapping[str, pd.DataFrame],
    done: Mapping[str, pd.DataFrame],
    options: AugmentationOptions,
    context: Context,
) -> Iterator[dict[str, pd.DataFrame]]:
    """Score the candidates that have no scores yet, shard by shard.

    Scores do not depend on thresholds, which can be changed without scoring again.

    Args:
        corpus: Clean texts, of which random pairs show the level of chance similarity.
        candidates: All shards of candidates.
        done: Shards of scores of earlier runs.
        options: Augmentation options.
        context: The embedder.

    Yields:
        Scores of one shard.
    """
    folder = score_folder(corpus, options, context)
    shards = ((name, frame) for name, frame in present(corpus, candidates, options, context) if len(frame))
    missing = list(dict.fromkeys(name for name, frame in shards if not _covers(done, f"{folder}/{name}", frame)))
    if missing:
        tell_of_other_formats("pair_scores", done, _FORMAT)
    drift = options.filters.drift
    judged = drift.generators if drift else ()
    strategy_similarity = _Similarity(context, drift) if drift else None
    reference: np.ndarray | None = None
    for name in tqdm(missing, unit="shard", desc="score", disable=not context.progress or not missing):
        frame = candidates[name]
        similarity = strategy_similarity if strategy_similarity and frame["generator"].iloc[0] in judged else None
        if similarity and reference is None and drift:
            reference = drift_reference(corpus.sample(drift.reference_texts, options.seed)["text"].tolist(), similarity)
        yield {f"{folder}/{name}": score(frame, similarity, reference if similarity else None)}


def select_pairs(
    corpus: TextStream,
    candidates: Mapping[str, pd.DataFrame],
    scores: Mapping[str, pd.DataFrame],
    options: AugmentationOptions,
    context: Context,
) -> tuple[TableStream, TableStream, dict[str, Any]]:
    """Judge all candidates in the order of their keys, so that the outcome does not depend on their distribution over shards.

    Args:
        corpus: Clean texts.
        candidates: All shards of candidates.
        scores: Their scores.
        options: Augmentation options.
        context: What determines the names of shards.

    Returns:
        Accepted pairs, rejected pairs (the latter with a ``reason``), and the report.

    Raises:
        MissingScoresError: If a shard has no scores.
        MissingBudgetError: If a budget chose under other options, and none under these.
    """
    folder = score_folder(corpus, options, context)
    scratch = _Scratch()
    buckets = _Buckets(scratch.path, sum(1 for _ in candidates) * options.shard_size)
    for name, frame in present(corpus, candidates, options, context):
        if frame.empty:
            continue
        if not _covers(scores, f"{folder}/{name}", frame):
            msg = f"the candidates {name!r} have no scores for these options; run data_augmentation from score_candidates_node onwards"
            raise MissingScoresError(msg)
        buckets.add(frame.merge(scores[f"{folder}/{name}"].drop_duplicates("key"), on="key", how="left", validate="one_to_one"))
    report, positives = Report(), Positives()
    identity = TextsIdentity(text for _, text in corpus.rows()).hexdigest()
    with ExitStack() as stack:
        files = {verdict: scratch.path / f"{verdict}.parquet" for verdict in ("accepted", "rejected")}
        writers = {verdict: stack.enter_context(ParquetWriter(file)) for verdict, file in files.items()}
        for rows in buckets.in_order():
            judged = judge(rows, options.filters, positives)
            report.add(judged)
            table = _tidied(judged, identity)
            accepted = table["verdict"] == ACCEPTED
            writers["accepted"].write(table[accepted].drop(columns="reason"))
            writers["rejected"].write(table[~accepted])
    result = report.result()
    if chosen := budgets(corpus, candidates, options, context):
        result["budget"] = chosen
    streams = {}
    for verdict, writer in writers.items():
        streams[verdict] = scratch.stream(writer.path) if writer.written else TableStream.of(pd.DataFrame(columns=list(PAIR_COLUMNS)))
    return streams["accepted"], streams["rejected"], result


def _covers(scores: Mapping[str, pd.DataFrame], name: str, candidates: pd.DataFrame) -> bool:
    """Whether every candidate has scores: a shard regenerated after damage may hold other candidates than those scored."""
    return name in scores and bool(candidates["key"].isin(scores[name]["key"]).all())


def score_folder(corpus: TextStream, options: AugmentationOptions, context: Context) -> str:
    """The folder of the scores, whose name changes with everything that affects them."""
    drift = options.filters.drift
    parts: list[Any] = []
    if drift is not None:
        embedder = context.embedder_options
        strategy = embedder.strategy(drift.strategy, embedder.every_strategy[drift.strategy])
        parts += [sorted(drift.generators), strategy, embedder.max_length, context.base_model.card.sha256]
        parts.append(texts_in_order(corpus.sample(drift.reference_texts, options.seed)["text"]))
    return f"{format_folder(_FORMAT)}/{digest_of(parts)[:12]}"


class _Similarity:
    """Cosine similarity of text pairs under a strategy of the base model."""

    def __init__(self, context: Context, drift: DriftFilter) -> None:
        self._context = context
        options = context.embedder_options
        self._strategy = options.strategy(drift.strategy, options.every_strategy[drift.strategy])

    def __call__(self, first: list[str], second: list[str]) -> np.ndarray:
        vectors = self._context.embedder().encode([*first, *second], self._strategy, progress=False)  # [2n, D] of unit length
        return (vectors[: len(first)] * vectors[len(first) :]).sum(axis=1)  # [n]


class _Scratch:
    """A temporary folder that lives as long as a stream over one of its files."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=scratch_prefix())
        self.path = Path(self._folder.name)

    def stream(self, path: Path) -> TableStream:
        stream = TableStream.of_parquet(path)

        def pieces() -> Iterator[pd.DataFrame]:
            yield from stream.pieces()
            _ = self._folder  # keeps the folder alive as long as this function

        return TableStream(pieces)


class _Buckets:
    """Rows sorted by key on disk: distributed to files by the start of the key, then sorted in memory file by file."""

    def __init__(self, folder: Path, expected: int) -> None:
        self._count = max(1, -(-expected // _SORTED_AT_ONCE))
        self._writers = [ParquetWriter(folder / f"bucket-{number:05d}.parquet") for number in range(self._count)]

    def add(self, rows: pd.DataFrame) -> None:
        numbers = rows["key"].str[:8].map(lambda digits: int(digits, 16) * self._count >> 32)
        for number, group in rows.groupby(numbers):
            self._writers[int(number)].write(group)

    def in_order(self) -> Iterator[pd.DataFrame]:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            if writer.written:
                yield pd.read_parquet(writer.path).sort_values(["key", "generator"], kind="stable", ignore_index=True)
                writer.path.unlink()


def _tidied(judged: pd.DataFrame, identity: str) -> pd.DataFrame:
    """Arrange the columns with the most important first; the answer, as judged, becomes the ``generated_text``.

    ``corpus`` is the identity of the texts that a pair comes from; empty if it comes from elsewhere.
    """
    table = judged.drop(columns="generated_text").rename(columns={"answer": "generated_text"})
    table.insert(0, "pair_id", table["generator"] + ":" + table["key"])
    table["corpus"] = table["generator"].map(lambda name: identity if load_generator(name).from_corpus else "")
    others = [column for column in table.columns if column not in {*PAIR_COLUMNS, "key"}]
    return table[[*PAIR_COLUMNS, *others]]
