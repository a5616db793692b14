"""Processes that train together, which Ray Train starts, and starts again from the last checkpoint when one of them dies."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.settings import ClusterError, ClusterSettings

logger = logging.getLogger(__name__)

_PACKAGE = __name__.partition(".")[0]
_RAY, _LOG, _REFUSAL = "ray", "first.log", "refusal.txt"
# Processes that die, or machines that are taken away unannounced, before training gives up; announced ones do not count.
_DEATHS = 3
# Seconds that Ray Train waits for the machines of all processes, and how often it tries again.
_WAIT, _WAITS = "60", 1
_LOOK_SECONDS = 1.0


class RefusedError(ClusterError):
    """An error of this project's own in one of the processes, in its words."""


@dataclass(frozen=True)
class Room:
    """What a cluster has for processes that train together.

    Attributes:
        processes: Their number.
        threads: CPU cores of each.
        with_gpu: Whether each has a GPU.
    """

    processes: int
    threads: int
    with_gpu: bool


def is_elsewhere(settings: ClusterSettings) -> bool:
    """Whether the cluster is one that exists, and not one that the run would start on this machine."""
    return bool(settings.address or os.environ.get("RAY_ADDRESS"))


def find_room(settings: ClusterSettings, wanted: int | None, batch_size: int) -> Room:
    """How many processes can share batches on the cluster: on its GPUs if it has any, or else on CPU cores.

    Args:
        settings: The cluster.
        wanted: Number of processes; ``None`` is one for each GPU, or else one for each machine with CPU cores.
        batch_size: Texts or pairs in a batch, which must be divided evenly.

    Returns:
        As many as there is room for, up to the number wanted.

    Raises:
        ClusterError: If there is room for none, or the cluster cannot be used.
    """
    session.connect(replace(settings, workers=max(wanted or 1, settings.workers or 1)))
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(resources.get("GPU", 0)) for resources in machines)
    cores = [count for resources in machines if (count := int(resources.get("CPU", 0)))]
    if not gpus and not cores:
        msg = "the cluster has neither GPUs nor CPU cores for training; add machines, or start Ray with --num-cpus on them"
        raise ClusterError(msg)
    most = min(wanted or gpus, gpus) if gpus else min(wanted or len(cores), sum(cores))
    processes = next(count for count in range(most, 0, -1) if batch_size % count == 0)
    if processes < (wanted or most):
        logger.warning(
            "%d processes train, not %d: the cluster has no room for more that share batches of %d", processes, wanted or most, batch_size
        )
    if gpus:
        return Room(processes, 1, with_gpu=True)
    threads = next(count for count in range(max(cores), 0, -1) if sum(own // count for own in cores) >= processes)
    return Room(processes, threads, with_gpu=False)


def train_together(work: str, folder: Path, settings: ClusterSettings, room: Room, batch_size: int, *, sees: Sequence[Path] = ()) -> None:
    """Run a function in processes of one torch process group, until it has returned in all of them.

    If one dies, all start again, on fewer machines if some are gone; the function must go on from what it has written. What the first one
    logs is logged here. An error of this project's own in any of them is final.

    Args:
        work: The function, as ``module:name``; it gets the folder.
        folder: A folder that every machine sees, empty except for what the function reads.
        settings: The cluster.
        room: The processes.
        batch_size: Texts or pairs in a batch, which must be divided evenly.
        sees: More paths that every machine must see.

    Raises:
        RefusedError: If the function fails with an error of this project's own.
        ClusterError: If the cluster cannot be used, or processes keep dying; what they have written stays.
    """
    session.connect(settings)
    session.check_machines([folder, *sees])
    while True:
        logger.info("training in %d processes on the cluster, %s each", room.processes, _size(room))
        with _told(folder / _LOG):
            error = _fit(work, folder, room)
        if (folder / _REFUSAL).is_file():
            raise RefusedError((folder / _REFUSAL).read_text(encoding="utf-8"))
        if error is None:
            return
        if not _lacks_machines(error):
            line = _first_cause(error)
            msg = f"training on the cluster failed ({line}); run again: it goes on from the last checkpoint"
            raise ClusterError(msg) from error
        left = find_room(settings, room.processes - 1, batch_size) if room.processes > 1 else None
        if left is None:
            msg = "the cluster has had no machine free for training for a minute; run again later: it goes on from the last checkpoint"
            raise ClusterError(msg) from error
        logger.warning("a machine has gone: %d processes go on instead of %d", left.processes, room.processes)
        room = left


def _fit(work: str, folder: Path, room: Room) -> BaseException | None:
    """Run a function in processes, and return the error if it fails."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _WAIT)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"work": work, "folder": str(folder), "threads": room.threads},
        # The others wait while the first process judges and mines.
        torch_config=TorchConfig(backend="nccl" if room.with_gpu else "gloo", timeout_s=7200),
        scaling_config=ScalingConfig(
            num_workers=room.processes, use_gpu=room.with_gpu, resources_per_worker={"GPU": 1} if room.with_gpu else {"CPU": room.threads}
        ),
        run_config=RunConfig(
            name=_RAY,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=_DEATHS, controller_failure_limit=_WAITS),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return error
    return None


def _work(given: dict[str, Any]) -> None:
    """One process; Ray Train has connected it with the others."""
    folder = Path(given["folder"])
    refusal = folder / _REFUSAL
    if refusal.is_file():  # starting again does not help
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(given["threads"])
    module, _, name = given["work"].partition(":")
    is_first = torch.distributed.get_rank() == 0
    try:
        with _noted(folder / _LOG) if is_first else _nothing():
            getattr(importlib.import_module(module), name)(folder)
    except Exception as error:
        if type(error).__module__.partition(".")[0] == _PACKAGE:
            written = folder / f".{_REFUSAL}.{torch.distributed.get_rank()}"
            written.write_text(str(error), encoding="utf-8")
            written.replace(refusal)
        raise


def _lacks_machines(error: BaseException) -> bool:
    """Whether Ray Train has given up waiting for machines."""
    return type(getattr(error, "controller_failure", None)).__name__ == "WorkerGroupStartupTimeoutError"


def _first_cause(error: BaseException) -> str:
    """The first error of a process, or Ray's own words."""
    causes = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", None) or error]
    cause = getattr(causes[0], "cause", None) or causes[0]
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"


def _size(room: Room) -> str:
    return "one GPU" if room.with_gpu else f"{room.threads} CPU cores"


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _noted(file: Path) -> Iterator[None]:
    """Write the project's log into a file, for the process that has started this one."""
    handler = logging.FileHandler(file, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(levelno)d %(message)s"))
    own = logging.getLogger(_PACKAGE)
    level = own.level
    own.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        yield
    finally:
        own.setLevel(level)
        own.removeHandler(handler)
        handler.close()


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Log here what another process writes into a file."""
    ended = threading.Event()
    place = file.stat().st_size if file.is_file() else 0

    def tell() -> None:
        nonlocal place
        is_last = False
        while not is_last:
            is_last = ended.wait(_LOOK_SECONDS)
            if file.is_file():
                with file.open("rb") as lines:
                    lines.seek(place)
                    for line in lines:
                        if line.endswith(b"\n"):
                            place += len(line)
                            level, _, message = line.decode("utf-8", "replace").strip().partition(" ")
                            logger.log(int(level) if level.isdecimal() else logging.INFO, "%s", message)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
