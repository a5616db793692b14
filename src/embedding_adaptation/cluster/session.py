"""The cluster of this process: found or started when it is first needed, and stopped at the end of a run."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedding_adaptation.cluster.settings import MB, ClusterError, ClusterSettings, require_ray

logger = logging.getLogger(__name__)

_SECRET = re.compile(r"^(?!RAY_).*(KEY|TOKEN(?!IZERS)|SECRET|PASSW|CREDENTIAL)", re.IGNORECASE)
_NODE_SECONDS = 60.0
_STARTS = 3
# They warn that their progress bars are off, and that a cluster is protected.
_TALKATIVE = ("ray.data", "ray._private.authentication.authentication_token_setup")


@dataclass
class _State:
    started: bool = False
    used: set[Path] = field(default_factory=set)


_state = _State()


def connect(settings: ClusterSettings) -> None:
    """Connect to the cluster, or start one on this machine; a connection that exists is used.

    Raises:
        ClusterError: If Ray is not installed, or the cluster cannot be reached.
    """
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray.data  # sets up its own logging

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    address = settings.address or os.environ.get("RAY_ADDRESS")
    quiet = {"logging_level": logging.WARNING, "log_to_driver": False}
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            msg = (
                f"no Ray cluster at {address!r} ({_first_line(error)}); start it ('ray start --head'), correct RAY_ADDRESS or "
                "embedder.cluster.address, or unset it to use this machine"
            )
            raise ClusterError(msg) from error
    else:
        cores = max(os.cpu_count() or 1, (settings.workers or 1) * settings.threads)
        with _without_secrets():
            _start(address="local", num_cpus=cores, object_store_memory=settings.store_mb * MB, include_dashboard=False, **quiet)
    _state.started = True
    logger.info("%s, %d workers", f"Ray cluster at {address}" if address else "Ray cluster on this machine", workers(settings)[0])


def workers(settings: ClusterSettings, *, without_gpu: bool = False) -> tuple[int, bool]:
    """Number of workers on the connected cluster, and whether each has a GPU.

    Args:
        settings: How many are wanted.
        without_gpu: Count CPU cores, even if there are GPUs.

    Raises:
        ClusterError: If it has not enough CPU cores for one.
    """
    import ray

    resources = ray.cluster_resources()
    gpus, cores = 0 if without_gpu else int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if gpus:
        return min(settings.workers or gpus, gpus), True
    if cores < settings.threads:
        msg = f"the cluster has {cores} CPU cores, fewer than embedder.cluster.threads ({settings.threads}); lower it or add machines"
        raise ClusterError(msg)
    most = cores // settings.threads
    return min(settings.workers or most, most), False


def check_machines(paths: Sequence[Path]) -> None:
    """Check that every machine of the connected cluster sees some paths and has the project installed.

    Raises:
        ClusterError: If one does not; the message names it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    look = ray.remote(num_cpus=0, max_retries=0)(_missing)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(list(map(str, paths))): node
        for node in nodes
    }
    for reference, node in asked.items():
        name = node["NodeManagerHostname"]
        try:
            missing = ray.get(reference, timeout=_NODE_SECONDS)
        except ray.exceptions.GetTimeoutError:
            logger.warning("%s has not answered in %g s; it is left to Ray", name, _NODE_SECONDS)
        except ray.exceptions.RayTaskError as error:
            msg = f"{name} cannot run this project ({_first_line(error.cause)}); install embedding-adaptation[cluster] there, too"
            raise ClusterError(msg) from error
        except ray.exceptions.RayError as error:
            logger.warning("%s did not answer (%s); it is left to Ray", name, type(error).__name__)
        else:
            if missing:
                msg = (
                    f"{name} does not see {', '.join(missing)}; mount the folder on every machine under the same path, or choose another "
                    "(embedder.cluster.folder, and output in conf/base/globals.yml)"
                )
                raise ClusterError(msg)


def keep(folder: Path) -> None:
    """Note a folder of blocks that is no longer needed when the run has succeeded."""
    _state.used.add(folder)


def stop(*, succeeded: bool) -> None:
    """Leave the cluster, stopping one that was started for this process, and remove blocks that a successful run no longer needs."""
    if succeeded:
        for folder in _state.used:
            shutil.rmtree(folder, ignore_errors=True)
    _state.used.clear()
    if _state.started:
        import ray

        ray.shutdown()
        _state.started = False


def _missing(paths: list[str]) -> list[str]:
    """Which paths this machine does not see; cannot even be found where the project is not installed."""
    return [path for path in paths if not Path(path).exists()]


def _start(**arguments: Any) -> None:
    """Start a cluster on this machine; a busy machine may need more than the seconds that Ray allows, but less the next time.

    Raises:
        ClusterError: If it does not start.
    """
    import ray

    for left in reversed(range(_STARTS)):
        try:
            ray.init(**arguments)
        except Exception as error:
            ray.shutdown()
            if not left:
                msg = (
                    f"Ray did not start on this machine ({_first_line(error)}); look into /tmp/ray/session_latest/logs, or wait until the "
                    "machine is less busy"
                )
                raise ClusterError(msg) from error
            logger.warning("Ray did not start (%s); trying again", _first_line(error))
        else:
            return


@contextmanager
def _without_secrets() -> Iterator[None]:
    """The environment without keys, which the processes of a cluster would inherit and do not need."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _SECRET.search(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
