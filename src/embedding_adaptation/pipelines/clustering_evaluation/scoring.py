"""Scores of vectors: mteb's protocol through mteb itself, and scores on unique documents.

mteb's task objects draw documents and bootstraps from a generator that is never reset, and importing or building them reseeds the process.
So every score gets a fresh task object, and the process's random state is put back afterwards. mteb's result cache knows a model by its
name only; it is never used.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mteb
import numpy as np
import torch
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

from datasets import Dataset, DatasetDict
from embedding_adaptation.pipelines.clustering_evaluation.agreement import (
    METRICS,
    agreement,
    cluster_vectors,
    estimate_cluster_count,
    resampled_agreement,
)
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.vectors.threads import one_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mteb.abstasks import AbsTask
    from mteb.results import TaskResult

    from embedding_adaptation.pipelines.clustering_evaluation.options import ClusterCountOptions

logger = logging.getLogger(__name__)

TASK_NAME = "LabelledTexts"
# Maps texts to vectors [N, D] in the same order; equal texts have equal vectors.
VectorSource = Callable[[Sequence[str]], np.ndarray]
# The texts whose vectors a task has requested, by split and subset.
Seen = dict[tuple[str, str], list[str]]
# The label of a text: a class, or classes from coarse to fine.
Label = str | Sequence[str]
_TWO_CLASSES = 2


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Put Python's, NumPy's and torch's random state back when the block ends."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  the global state is the point
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(pytorch)


def labelled_texts_task(texts: Sequence[str], labels: Sequence[Label], seed: int, name: str = TASK_NAME) -> AbsTask:
    """A fresh mteb clustering task (fast protocol) over the given texts; all of them are embedded."""

    class LabelledTexts(AbsTaskClustering):
        metadata = TaskMetadata(
            dataset={"path": "local", "revision": "local"},
            name=name,
            description="The user's labelled texts.",
            type="Clustering",
            eval_langs=["eng-Latn"],
            main_score="v_measure",
        )
        max_fraction_of_documents_to_embed = None

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            """Nothing to load: the dataset is set below."""

    task = LabelledTexts(seed=seed)
    # Labels get a prefix, because the protocol leaves out documents whose label reads -1.
    named = [f"label {label}" if isinstance(label, str) else [f"label {level}" for level in label] for label in labels]
    task.dataset = DatasetDict({"test": Dataset.from_dict({"sentences": list(texts), "labels": named})})
    task.data_loaded = True
    return task


def evaluate_with_mteb(task: AbsTask, source: VectorSource) -> tuple[TaskResult, Seen]:
    """Score vectors on any text task through ``mteb.evaluate``, without its cache.

    Args:
        task: A task object that has not been used for scoring.
        source: Source of the vectors.

    Returns:
        mteb's result, and the texts whose vectors it requested.

    Raises:
        EvaluationError: If a vector is not finite.
    """

    class VectorEncoder(AbsEncoder):
        """Looks up each text's vector."""

        def __init__(self, all_threads: Callable[[], AbstractContextManager[Any]]) -> None:
            self.all_threads = all_threads
            self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": "local/vectors", "revision": "local"})
            self.seen: Seen = {}

        def encode(self, inputs: Any, *, hf_split: str, hf_subset: str, **kwargs: Any) -> np.ndarray:  # noqa: ARG002
            texts = [text for batch in inputs for text in batch["text"]]
            self.seen.setdefault((hf_split, hf_subset), []).extend(texts)
            with self.all_threads():  # the source may have to embed the texts first
                return checked_vectors(source(texts))

    # Clustering is k-means, of which mteb makes many small ones; other kinds of task gain from threads.
    with preserved_random_state(), one_thread() if task.metadata.type == "Clustering" else nullcontext(nullcontext) as all_threads:
        encoder = VectorEncoder(all_threads)
        result = mteb.evaluate(encoder, [task], cache=None, show_progress_bar=False)
    return result.task_results[0], encoder.seen


def mteb_scores(vectors: np.ndarray, texts: Sequence[str], labels: Sequence[Label], seed: int) -> tuple[float, float]:
    """Mean V-measure of mteb's fast clustering protocol, and its standard deviation over the bootstraps.

    Args:
        vectors: One row per text, ``[N, D]`` float32.
        texts: The texts. Equal texts must have equal vectors.
        labels: Their labels.
        seed: Seed of the task object.
    """
    with preserved_random_state():
        task = labelled_texts_task(texts, labels, seed)
        result, _ = evaluate_with_mteb(task, by_text(texts, vectors))
    scores = result.scores["test"][0]
    return float(scores["v_measure"]), float(scores["v_measure_std"])


def by_text(texts: Sequence[str], vectors: np.ndarray) -> VectorSource:
    """A source of existing vectors."""
    rows = {text: number for number, text in enumerate(texts)}
    return lambda wanted: vectors[[rows[text] for text in wanted]]


def checked_vectors(vectors: np.ndarray) -> np.ndarray:
    """The vectors unchanged, if all are finite.

    Raises:
        EvaluationError: If one is not.
    """
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        msg = (
            f"{len(broken)} of {len(vectors)} vectors have values that are not finite (first: text {broken[0] + 1}); embed again with "
            "embedder.dtype=float32, and check the adapter's training loss"
        )
        raise EvaluationError(msg)
    return vectors


@dataclass(frozen=True)
class Part:
    """The unique documents of one clustering: of a whole task, a level of its hierarchy, or one of its sets.

    Attributes:
        title: For example ``level 1``.
        texts: The documents, without duplicates.
        labels: Their labels.
        copies: Documents left out because they equal another one.
        contradictions: Those of the copies that have a different label.
    """

    title: str
    texts: tuple[str, ...]
    labels: np.ndarray
    copies: int = 0
    contradictions: int = 0

    @property
    def clusters(self) -> int:
        """Number of labels."""
        return len(np.unique(self.labels))

    @property
    def singletons(self) -> int:
        """Number of labels that only one document has."""
        return int((np.unique(self.labels, return_counts=True)[1] == 1).sum())


def unique_parts(texts: Sequence[str], labels: Sequence[Label], title: str = "") -> list[Part]:
    """Unique documents, one part per level of the labels; of equal texts the first is kept.

    Args:
        texts: ``[N]``.
        labels: ``[N]``; in a hierarchy those without a label at a level are left out of it.
        title: Title of what the parts belong to.

    Raises:
        EvaluationError: If a level leaves nothing to cluster.
    """
    levels = [[label] if isinstance(label, str) else list(label) for label in labels]
    parts = []
    for depth in range(max(map(len, levels), default=0)):
        first: dict[str, str] = {}
        copies = contradictions = 0
        for text, label in zip(texts, levels, strict=True):
            if len(label) <= depth:
                continue
            if text in first:
                copies += 1
                contradictions += first[text] != label[depth]
            first.setdefault(text, label[depth])
        name = " ".join(word for word in (title, f"level {depth + 1}" * (max(map(len, levels)) > 1)) if word)
        part = Part(name, tuple(first), np.array(list(first.values())), copies, contradictions)
        _check_part(part)
        parts.append(part)
    return parts


def _check_part(part: Part) -> None:
    where = f" at {part.title}" if part.title else ""
    if part.clusters < _TWO_CLASSES:
        msg = f"the {len(part.texts)} distinct documents{where} have {part.clusters} label; scoring a clustering needs at least two"
        raise EvaluationError(msg)
    if part.clusters == len(part.texts):
        msg = (
            f"each of the {len(part.texts)} distinct documents{where} has its own label, which any clustering into as many clusters "
            "gets right; choose the column that contains classes"
        )
        raise EvaluationError(msg)


@dataclass(frozen=True)
class UniqueScores:
    """Scores on unique documents, averaged over a task's parts.

    Attributes:
        metrics: By name: ``v_measure_unique``, ``ami_unique``, ``ari_unique``, ``accuracy_unique``; and where the number of clusters was
            estimated, the same ending in ``_estimated``, and ``clusters_estimated``.
        by_part: The same for each part, by its title, where there are several.
        resampled: For each ``_unique`` metric its values on the resamples, ``[B]``.
    """

    metrics: dict[str, float]
    by_part: dict[str, dict[str, float]] = field(default_factory=dict)
    resampled: dict[str, np.ndarray] = field(default_factory=dict)


def score_parts(
    parts: Sequence[Part],
    source: VectorSource,
    seed: int,
    *,
    resamples: int = 0,
    resampling_seed: int = 0,
    cluster_count: ClusterCountOptions | None = None,
) -> UniqueScores:
    """Cluster each part's documents and compare the clusters with the labels.

    mteb's bootstrap draws documents with replacement, and copies of a document always fall into the same cluster, which lifts its scores
    even of random vectors. Here every document counts once, so AMI and ARI are near zero for random vectors.

    Args:
        parts: What to cluster, see :func:`unique_parts`.
        source: Source of the vectors.
        seed: Seed of the clusterings.
        resamples: Bootstrap resamples; 0 leaves them out.
        resampling_seed: Seed of the resamples.
        cluster_count: How to estimate the number of clusters; ``None`` does not.

    Raises:
        EvaluationError: If a vector is not finite.
    """
    by_part: dict[str, dict[str, float]] = {}
    resampled: list[dict[str, np.ndarray]] = []
    for number, part in enumerate(parts):
        vectors = checked_vectors(source(part.texts))  # [N, D]
        clusters = cluster_vectors(vectors, part.clusters, seed)
        values = {f"{name}_unique": value for name, value in agreement(part.labels, clusters).items()}
        if cluster_count is not None:
            count = estimate_cluster_count(vectors, seed, candidates=cluster_count.candidates, max_documents=cluster_count.max_documents)
            found = agreement(part.labels, cluster_vectors(vectors, count, seed))
            values |= {f"{name}_estimated": value for name, value in found.items()} | {"clusters_estimated": float(count)}
        if resamples:
            resampled.append(resampled_agreement(part.labels, clusters, resamples=resamples, seed=resampling_seed + number))
        by_part[part.title or str(number)] = values
    names = next(iter(by_part.values()))
    return UniqueScores(
        metrics={name: float(np.mean([values[name] for values in by_part.values()])) for name in names},
        by_part=by_part if len(parts) > 1 else {},
        resampled={f"{name}_unique": np.mean([part[name] for part in resampled], axis=0) for name in METRICS} if resampled else {},
    )


def unique_document_scores(vectors: np.ndarray, texts: Sequence[str], labels: Sequence[Label], seed: int) -> dict[str, float]:
    """The scores of one clustering of the unique documents into as many clusters as labels; see :func:`score_parts`.

    Args:
        vectors: One row per text, ``[N, D]``.
        texts: The texts; of equal ones only the first is scored.
        labels: Their labels.
        seed: Seed of the clustering.
    """
    return score_parts(unique_parts(texts, labels), by_text(texts, vectors), seed).metrics
