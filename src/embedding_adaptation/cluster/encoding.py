"""Blocks of texts through a pool of workers, by Ray Data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.blocks import Block
from embedding_adaptation.cluster.settings import ClusterError, ClusterSettings
from embedding_adaptation.cluster.worker import BlockEncoder, EncodingJob

# Tasks of the scheduler are cheap but not free: beyond this number of blocks, one takes several.
_MOST_TASKS = 4096
# Errors of this project's own say what to do.
_PACKAGE = __name__.partition(".")[0]
_OWN = re.compile(rf"^{_PACKAGE}[\w.]*\.\w+Error: (.+)$", re.MULTILINE)


def encode_blocks(blocks: Sequence[Block], job: EncodingJob, settings: ClusterSettings, *, progress: bool = True) -> Iterator[Block]:
    """Embed blocks on the cluster; those that are finished are left as they are.

    Only the names of blocks travel through Ray: workers read texts from the shared folder and write vectors to it. If a worker or a machine
    dies, Ray gives its blocks to another one.

    Args:
        blocks: The blocks, whose texts have been written.
        job: Weights and strategies.
        settings: The cluster.
        progress: Whether to show a progress bar.

    Yields:
        Each block when it is finished, in any order.

    Raises:
        ClusterError: If the cluster cannot be used or gives up; finished blocks stay.
    """
    unfinished = [index for index, block in enumerate(blocks) if not block.is_finished()]
    with tqdm(total=sum(block.rows for block in blocks), unit="text", desc="embed (cluster)", disable=not progress) as bar:
        for index in sorted(set(range(len(blocks))) - set(unfinished)):
            bar.update(blocks[index].rows)
            yield blocks[index]
        if unfinished:
            folders = [job.weights.base, *([job.weights.adapter] if job.weights.adapter else [])]
            for index in run_pool(BlockEncoder, job, {index: blocks[index] for index in unfinished}, settings, folders):
                bar.update(blocks[index].rows)
                yield blocks[index]


class Part(Protocol):
    """The names of a worker's files."""

    @property
    def folder(self) -> Path:
        """The folder of the job."""

    @property
    def number(self) -> int:
        """Its place, from 0."""

    @property
    def fingerprint(self) -> str:
        """Identity of what is given and done."""

    @property
    def rows(self) -> int:
        """Its rows."""


def run_pool(worker: type, job: Any, parts: Mapping[int, Part], settings: ClusterSettings, sees: Sequence[Path] = ()) -> Iterator[int]:
    """Run a class in a pool of workers over parts whose files they find.

    Args:
        worker: Gets the job once, and then batches of the parts' index, folder, number, fingerprint and rows, whose index it returns.
        job: What every worker needs to know; with a ``device``.
        parts: The parts by index.
        settings: The cluster.
        sees: More paths that every machine must see.

    Yields:
        Each index when its part is finished, in any order.

    Raises:
        ClusterError: If the cluster cannot be used or gives up.
    """
    session.connect(settings)
    import ray

    folder = next(iter(parts.values())).folder
    session.check_machines([folder, *sees])
    count, with_gpu = session.workers(settings, without_gpu=job.device is None)
    if with_gpu and job.device != "cpu":
        job, resources = replace(job, device="cuda"), {"num_cpus": 0.0, "num_gpus": 1.0}
    else:
        job, resources = replace(job, device=job.device and "cpu"), {"num_cpus": float(settings.threads)}
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_auto_log_stats = False
    items = [
        {"index": index, "folder": str(block.folder), "number": block.number, "fingerprint": block.fingerprint, "rows": block.rows}
        for index, block in parts.items()
    ]
    finished = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_TASKS)).map_batches(
        worker,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(count, len(items))),
        **resources,
    )
    try:
        for row in finished.iter_rows():
            yield int(row["index"])
    except ray.exceptions.RayError as error:
        raise _translated(error, folder) from error


def _translated(error: BaseException, folder: Path) -> ClusterError:
    """Ray's error as one that says what to do."""
    causes = list(_causes(error))
    for cause in causes:
        if type(cause).__module__.partition(".")[0] == _PACKAGE:
            return ClusterError(str(cause))
        if told := _OWN.search(str(cause)):  # of a worker that could not start, Ray passes on only the traceback
            return ClusterError(told[1])
    last = causes[-1]
    line = (str(last).strip().splitlines() or [""])[0]
    return ClusterError(f"work on the cluster failed ({type(last).__name__}: {line}); run again: what is finished stays in {folder}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [one.__cause__, getattr(one, "cause", None)]
