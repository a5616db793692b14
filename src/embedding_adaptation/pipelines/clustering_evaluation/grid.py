"""The grid of tasks, strategies and seeds: planned, scored cell by cell, and looked up by fingerprint."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import re
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from embedding_adaptation.comparison_table import LABELLED_TEXTS
from embedding_adaptation.identity import digest_of, format_folder, tell_of_other_formats
from embedding_adaptation.pipelines.clustering_evaluation.cells import FORMAT, RESAMPLED
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.processes import spread
from embedding_adaptation.pipelines.clustering_evaluation.scoring import evaluate_with_mteb, preserved_random_state, score_parts
from embedding_adaptation.pipelines.clustering_evaluation.tasks import CLUSTERING, EvaluationTask, OfficialTask, PreparedTask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions
    from embedding_adaptation.pipelines.clustering_evaluation.scoring import VectorSource
    from embedding_adaptation.pipelines.clustering_evaluation.vectors import Contenders

logger = logging.getLogger(__name__)

_SHORT = 12


def plan(tasks: Sequence[EvaluationTask], contenders: Contenders, options: EvaluationOptions) -> pd.DataFrame:
    """List everything to score: one row per cell.

    Args:
        tasks: The tasks.
        contenders: Strategies and comparators.
        options: Protocol.

    Returns:
        ``task``, ``type``, ``official``, ``strategy``, ``kind`` (base, adapted, comparator), ``seed``, ``revision`` and ``content`` (hash)
        of the task's data, ``vectors`` (their identity), and ``cell``, the name under which its score is stored: a fingerprint of
        everything that affects it.
    """
    rows = []
    for task in tasks:
        data = digest_of(task.data)
        protocol = _protocol(task, options)
        revision, content = _provenance(task)
        for name in contenders.of_task(task):
            identity = contenders.identity(name, given=task.name == LABELLED_TEXTS)
            for seed in task.seeds:
                fingerprint = digest_of({"data": data, "vectors": identity, "seed": seed, "protocol": protocol})
                rows.append(
                    {
                        "task": task.name,
                        "type": task.kind,
                        "official": task.official,
                        "strategy": name,
                        "kind": contenders.kind(name),
                        "seed": seed,
                        "revision": revision,
                        "content": content,
                        "vectors": digest_of(identity),
                        "cell": f"{_folder(task)}/{fingerprint}",
                    }
                )
    return pd.DataFrame(rows)


def check_data(tasks: Sequence[EvaluationTask], finished: Mapping[str, Any]) -> None:
    """Compare the data of mteb's tasks with those of earlier scores.

    Raises:
        EvaluationError: If the same revision has different contents.
    """
    for task in tasks:
        if not isinstance(task, OfficialTask):
            continue
        own = _folder(task)
        same_revision = own.rpartition("-")[0] + "-"
        others = {name.rpartition("/")[0] for name in finished if name.startswith(same_revision)} - {own}
        if others:
            revision, content = _provenance(task)
            msg = (
                f"{task.name}: its data at revision {revision} have the content hash {content[:_SHORT]}..., but scores were recorded with "
                f"{min(others).rpartition('-')[2]}...; one of the two copies is damaged. Copy the data again, or, if these are right, "
                f"delete the folder {min(others)} of evaluation_cells"
            )
            raise EvaluationError(msg)


def score_missing(
    planned: pd.DataFrame,
    tasks: Sequence[EvaluationTask],
    contenders: Contenders,
    finished: Mapping[str, Any],
    options: EvaluationOptions,
) -> Iterator[dict[str, pd.DataFrame]]:
    """Score the missing cells, yielding each as soon as it is finished.

    Args:
        planned: The cells, see :func:`plan`.
        tasks: Their tasks.
        contenders: Their strategies.
        finished: Cells of earlier runs.
        options: Protocol.

    Yields:
        One cell at a time: one row with facts, metrics and resampled metrics.
    """
    cells = planned.drop_duplicates("cell")  # strategies that differ in name only share one
    missing = cells[~cells["cell"].isin(set(finished))]
    logger.info("%d of %d scores already exist", len(cells) - len(missing), len(cells))
    if missing.empty:
        return
    tell_of_other_formats("evaluation_cells", finished, FORMAT)
    score = functools.partial(_score, options=options)
    with tqdm(total=len(missing), unit="score", desc="evaluate") as bar:
        for portable, jobs in itertools.groupby(_jobs(missing, tasks, contenders), key=lambda job: job.portable):
            for cell, title, scored in spread(score, list(jobs)) if portable else map(score, jobs):
                bar.set_postfix_str(title, refresh=False)
                yield {cell: scored}
                bar.update()


@dataclass(frozen=True)
class _Job:
    """A cell to score.

    Attributes:
        cell: Its name.
        strategy: Name of the strategy.
        portable: Whether the vectors are at hand, so that another process can score them.
    """

    cell: str
    strategy: str
    task: EvaluationTask
    prepared: PreparedTask
    source: VectorSource
    seed: int
    portable: bool


def _jobs(missing: pd.DataFrame, tasks: Sequence[EvaluationTask], contenders: Contenders) -> Iterator[_Job]:
    by_name = {task.name: task for task in tasks}
    for (name, of_seed), group in missing.groupby(["task", "seed"], sort=False):
        task, given, seed = by_name[str(name)], name == LABELLED_TEXTS, int(str(of_seed))
        with preserved_random_state():
            prepared = task.prepare(seed)
        company = group["strategy"].tolist()
        for strategy, cell in zip(company, group["cell"], strict=True):
            source = contenders.source(strategy, seed, given=given, company=company)
            portable = not task.official and contenders.at_hand(strategy, given=given)
            yield _Job(cell, strategy, task, prepared, source, seed, portable)


def _score(job: _Job, options: EvaluationOptions) -> tuple[str, str, pd.DataFrame]:
    """The cell, its title and its score."""
    try:
        scored = score_cell(job.task, job.prepared, job.source, job.seed, options)
    except EvaluationError as error:
        msg = f"{job.task.name}, strategy {job.strategy!r}: {error}"
        raise EvaluationError(msg) from error
    return job.cell, f"{job.task.name}: {job.strategy}", scored


def score_cell(task: EvaluationTask, prepared: PreparedTask, source: VectorSource, seed: int, options: EvaluationOptions) -> pd.DataFrame:
    """Score vectors on a task with a seed.

    Returns:
        One row: ``main_score`` (mteb's name for it), ``metrics`` and ``by_part`` (JSON), ``documents``, ``unique_documents``, ``clusters``,
        ``singletons``, ``mteb_result`` (JSON, of mteb's own tasks), and a list of resampled values for each metric on unique documents.
    """
    with preserved_random_state():
        fresh = prepared.fresh()
        result, seen = evaluate_with_mteb(fresh, source)
    main = str(fresh.metadata.main_score)
    scores = [entry for split in result.scores.values() for entry in split]
    metrics: dict[str, float] = {main: float(result.get_score())}
    row: dict[str, Any] = {"main_score": main, "documents": sum(map(len, seen.values()))}
    resampled: dict[str, np.ndarray] = {}
    by_part: dict[str, dict[str, float]] = {}
    if task.kind == CLUSTERING:
        spreads = [entry["v_measure_std"] for entry in scores if "v_measure_std" in entry]
        metrics |= {"v_measure_std": float(np.mean(spreads))} if spreads else {}
        parts = prepared.parts(seen)
        unique = score_parts(
            parts, source, seed, resamples=options.statistics.resamples, resampling_seed=options.statistics.seed,
            cluster_count=options.cluster_count,
        )  # fmt: skip
        metrics |= unique.metrics
        by_part, resampled = unique.by_part, unique.resampled
        row |= {
            "unique_documents": len({text for part in parts for text in part.texts}),
            "clusters": max(part.clusters for part in parts),
            "singletons": sum(part.singletons for part in parts),
        }
    row |= {
        "metrics": json.dumps(metrics),
        "by_part": json.dumps(by_part),
        "mteb_result": result.model_dump_json() if task.official else "",
    }
    row |= {f"{RESAMPLED}{name}": [values.astype(np.float32)] for name, values in resampled.items()}
    return pd.DataFrame({key: value if isinstance(value, list) else [value] for key, value in row.items()})


def _protocol(task: EvaluationTask, options: EvaluationOptions) -> dict[str, Any]:
    protocol: dict[str, Any] = {"mteb": metadata.version("mteb"), "scikit-learn": metadata.version("scikit-learn")}
    if task.kind == CLUSTERING:
        count = options.cluster_count
        protocol |= {
            "resamples": options.statistics.resamples,
            "resampling_seed": options.statistics.seed,
            "cluster_count": count.model_dump() if count else None,
        }
    return protocol


def _provenance(task: EvaluationTask) -> tuple[str, str]:
    if isinstance(task, OfficialTask):
        return task.files.revision, task.files.sha256
    return "", str(task.data["sha256"])


def _folder(task: EvaluationTask) -> str:
    """Folder of a task's cells: format, task name, revision and content hash of its data."""
    name = re.sub(r"[^A-Za-z0-9_.]", "_", task.name).strip(".") or "task"
    revision, content = _provenance(task)
    return f"{format_folder(FORMAT)}/{name}/{revision[:_SHORT] or 'file'}-{content[:_SHORT]}"
