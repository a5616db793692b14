"""How much memory is free, and whether a computation that says beforehand what it takes fits into it."""

from __future__ import annotations

import logging
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

_CONTROL_GROUP = Path("/sys/fs/cgroup")
_WORTH_SAYING = 1 << 30  # bytes


class OutOfMemoryError(MemoryError):
    """A computation would take more memory than there is; the message says what to change."""


def available_memory(group: Path = _CONTROL_GROUP) -> int:
    """Bytes that this process can still take: what the machine has free, or what the limit of a container leaves, if that is less.

    Args:
        group: Folder of the control group (version 2) that this process belongs to.
    """
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or no limit: "max"
        return free
    return max(0, min(free, limit - used))


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Say what a computation will take, and refuse it if that is more than there is.

    Args:
        needed: Bytes.
        what: What takes them, such as ``neighbours of 1,000,000 texts``.
        remedy: What to do if they are too many.

    Raises:
        OutOfMemoryError: If fewer bytes are available.
    """
    available = available_memory()
    if needed > available:
        msg = f"{what} would take {gigabytes(needed)} of memory, and {gigabytes(available)} are available; {remedy}"
        raise OutOfMemoryError(msg)
    if needed >= _WORTH_SAYING:
        logger.info("%s take %s of memory, of which %s are available", what, gigabytes(needed), gigabytes(available))


def gigabytes(count: float) -> str:
    """Bytes in gigabytes: ``2.3 GB``."""
    return f"{count / 1e9:,.1f} GB"
