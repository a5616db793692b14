"""Identify a process and tell whether it has ended; a process number alone is reused, and other machines and containers use it too."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

_BOOT, _MACHINE = Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id")
_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> str:
    """Describe this process as JSON: machine, boot, namespace of process numbers, number, and start time."""
    namespace = str(_NAMESPACE.readlink()) if _NAMESPACE.is_symlink() else ""
    pid = os.getpid()
    system = {"host": socket.gethostname(), "machine": _read(_MACHINE), "boot": _read(_BOOT), "namespace": namespace}
    return json.dumps(system | {"pid": pid, "started": _started(pid)}, separators=(",", ":"))


def has_ended(process: str) -> bool:
    """Whether a process described by :func:`this_process` has certainly ended; ``False`` also if that cannot be known from here.

    It is known only on the same host and machine: if the machine has been restarted since, or if process numbers are in the same namespace
    and the number is now free or belongs to another process. The numbers of another container say nothing.
    """
    try:
        other, own = json.loads(process), json.loads(this_process())
        if any(other[name] != own[name] for name in ("host", "machine")):
            return False
        if other["boot"] != own["boot"]:
            return bool(other["machine"] and other["boot"] and own["boot"])
        return other["namespace"] == own["namespace"] and _started(int(other["pid"])) != other["started"]
    except (ValueError, KeyError, TypeError):
        return False


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process was started; ``None`` if there is no such process or it is a zombie.

    Linux counts from the boot of the machine, so setting the clock does not change it.
    """
    if Path("/proc/self/stat").exists():
        text = _read(Path(f"/proc/{pid}/stat"))
        fields = text.rpartition(")")[2].split()  # the program's name may contain spaces and brackets
        return int(fields[19]) if fields and fields[0] not in "ZX" else None
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time())
    except psutil.Error:
        return None
