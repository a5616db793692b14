"""How a cluster is reached and used; loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

MB = 1 << 20


class ClusterError(RuntimeError):
    """A cluster that cannot be used, or could not finish; the message says what to do."""


@dataclass(frozen=True)
class ClusterSettings:
    """How a cluster is reached and used.

    Attributes:
        folder: A folder that every machine sees under the same path; blocks of texts and vectors are kept there.
        address: Address of a cluster; ``None`` takes ``RAY_ADDRESS``, or starts a cluster on this machine.
        workers: Number of models at work; ``None`` is one for each GPU, or else one for every ``threads`` CPU cores.
        threads: CPU cores of a worker without GPU.
        min_texts: Fewer texts are embedded by this process.
        block_texts: Most texts in a block, which is what a machine that dies may cost each worker.
        block_mb: Most megabytes of text in a block.
        store_mb: Object store of a cluster on this machine, in megabytes.
    """

    folder: Path
    address: str | None = None
    workers: int | None = None
    threads: int = 1
    min_texts: int = 2000
    block_texts: int = 512
    block_mb: float = 16.0
    store_mb: int = 256


def is_installed() -> bool:
    """Whether Ray is installed, without importing it."""
    try:
        return find_spec("ray") is not None
    except ValueError:  # a module without a specification stands in sys.modules
        return False


def require_ray() -> None:
    """Check that Ray is installed.

    Raises:
        ClusterError: If it is not.
    """
    if not is_installed():
        msg = (
            'embedder.cluster needs Ray, which is not installed; install it with pip install "embedding-adaptation[cluster]" on every '
            "machine, or run without --env cluster (embedder.cluster=null)"
        )
        raise ClusterError(msg)
