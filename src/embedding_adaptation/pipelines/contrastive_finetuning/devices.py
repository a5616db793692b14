r"""Train on one or more devices, on one or several machines: each takes part of every batch, and all negatives count.

On one machine, ``torchrun`` starts one process per device; on a Ray cluster, Ray Train does (see
:mod:`embedding_adaptation.cluster.training`). Processes that ``torchrun`` has started with the whole run share its training, too (see
:mod:`.launch`). The first one writes.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import PeftModel

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.cluster.settings import ClusterSettings
from embedding_adaptation.cluster.training import RefusedError, find_room, is_elsewhere, train_together
from embedding_adaptation.datasets.adapter import TrainedAdapter
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError, TrainingJob
from embedding_adaptation.pipelines.contrastive_finetuning.launch import LONGEST_WAIT, first_runs, launch
from embedding_adaptation.pipelines.contrastive_finetuning.loop import train_in_process
from embedding_adaptation.pipelines.contrastive_finetuning.ranks import rank
from embedding_adaptation.runtime import load_embedder

_FACT_NAMES = ("template", "pooling", "max_length", "steps", "strategy", "scales", "collision_rate")
_ADAPTER, _HISTORY, _FACTS = "adapter", "history.parquet", "result.json"


def train(job: TrainingJob) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train an adapter, and keep the best step by the stopping criterion.

    Each step draws ``batch_size`` compatible pairs; a pair's negatives are all the others. GradCache bounds memory by chunks
    of tokens, so the number of negatives does not depend on the machine. If a run with the same pairs, options and weights was
    interrupted, it resumes from its last checkpoint.

    Args:
        job: Data, model and options.

    Returns:
        The adapter, and its history: one row for each step, with the columns of :data:`.loop.HISTORY_COLUMNS` (NaN where not measured)
        and ``chosen``.

    Raises:
        TrainingError: If there are fewer pairs than one batch needs, the loss is no longer a number, something that the options ask for
            is missing, or a process on one of several devices fails; its output is on stderr.
        BatchError: If too few pairs fit into one batch.

    References:
        - InfoNCE with in-batch negatives: https://arxiv.org/abs/1705.00652
        - GradCache: https://arxiv.org/abs/2101.06983
        - LoRA: https://arxiv.org/abs/2106.09685
    """
    job.check()
    if (launched := launch()) is not None:
        with _job_folder(job.checkpoints) as folder:
            job.write(folder)
            launched.tell(folder)
            with launched.together():
                run(folder)
            return read_result(folder, job)
    if (cluster := job.embedder_options.cluster) is not None and job.options.devices != 1:
        return _train_on_cluster(job, cluster.settings)
    devices = job.options.devices or _devices_here(job.options.batch_size)
    if devices == 1:
        return train_in_process(job)
    with _job_folder() as folder:
        job.write(folder)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(devices)]
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // devices))}
        done = subprocess.run([*command, "-m", __name__, str(folder)], env=environment, check=False)  # noqa: S603  our own module
        if done.returncode:
            msg = f"training on {devices} devices failed with exit code {done.returncode}; see the output above"
            raise TrainingError(msg)
        return read_result(folder, job)


def _train_on_cluster(job: TrainingJob, settings: ClusterSettings) -> tuple[TrainedAdapter, pd.DataFrame]:
    """Train on a cluster's GPUs or CPU cores; if this machine has all that there is, in this process."""
    size = job.options.batch_size
    if job.options.devices is None and not is_elsewhere(settings) and torch.cuda.device_count() <= 1:
        return train_in_process(job)
    room = find_room(settings, job.options.devices, size)
    if room.processes == 1 and (torch.cuda.is_available() or not room.with_gpu):
        return train_in_process(job)
    with _job_folder(settings.folder) as folder:
        # Without a place for checkpoints, a process that dies would cost all steps.
        job = job if job.checkpoints is not None else replace(job, checkpoints=folder / "checkpoints")
        job.write(folder)
        written = [place for place in (job.checkpoints, job.memory and job.memory.folder.parent) if isinstance(place, Path)]
        for place in written:
            place.mkdir(parents=True, exist_ok=True)
        read = [job.weights.base, *([Path(job.options.start)] if job.options.start else [])]
        try:
            train_together(f"{__name__}:run", folder, settings, room, size, sees=[place.absolute() for place in written + read])
        except RefusedError as error:
            raise TrainingError(str(error)) from error
        return read_result(folder, job)


def _devices_here(batch_size: int) -> int:
    """As many of this machine's GPUs as can share a batch, or else its only processor."""
    return next(count for count in range(max(1, torch.cuda.device_count()), 0, -1) if batch_size % count == 0)


@contextmanager
def _job_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for a job, which goes when it is done; in ``parent``, if other machines must see it."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    prefix = scratch_prefix() if parent is None else f".{scratch_prefix()}"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name).absolute()


def read_result(folder: Path, job: TrainingJob) -> tuple[TrainedAdapter, pd.DataFrame]:
    """The adapter and history written by the first process."""
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    model = PeftModel.from_pretrained(load_embedder(job.weights, job.embedder_options).backbone, str(folder / _ADAPTER))
    return TrainedAdapter(model=model, base=job.weights.card, **facts), pd.read_parquet(folder / _HISTORY)


def share_run(pipelines: Callable[[], Any]) -> Any:
    """Run pipelines in the first of the processes that ``torchrun`` has started; all of them train."""
    if os.environ["RANK"] != "0":
        logging.getLogger(__name__.partition(".")[0]).setLevel(logging.WARNING)  # one process tells how training goes
    return first_runs(pipelines, run)


def run(folder: Path) -> None:
    """Train as one process of a group, and write the result if it is the first."""
    adapter, history = train_in_process(TrainingJob.read(folder))
    if rank() == 0:
        adapter.model.save_pretrained(str(folder / _ADAPTER), safe_serialization=True, save_embedding_layers=False)
        history.to_parquet(folder / _HISTORY)
        facts = {name: getattr(adapter, name) for name in _FACT_NAMES}
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
    torch.distributed.barrier()


def main(folder: Path) -> None:
    """Run one training process that ``torchrun`` has started."""
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_first else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)
    try:
        run(folder)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
