"""Which process is meant, and whether it has ended: a number alone is used again, by other machines and containers too."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

_BOOT, _MACHINE = Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id")
_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> str:
    """This process as a short text: machine, boot, namespace of process numbers, number, and when it was started."""
    namespace = str(_NAMESPACE.readlink()) if _NAMESPACE.is_symlink() else ""
    pid = os.getpid()
    place = {"host": socket.gethostname(), "machine": _read(_MACHINE), "boot": _read(_BOOT), "namespace": namespace}
    return json.dumps(place | {"pid": pid, "started": _started(pid)}, separators=(",", ":"))


def has_ended(process: str) -> bool:
    """Whether a process that :func:`this_process` described has surely ended; ``False`` also where that cannot be known from here.

    It can where host and machine are the same, and either the machine has been started again since or the process numbers are the same
    ones and this one is free, or belongs to another process. Another container's numbers say nothing.
    """
    try:
        there, here = json.loads(process), json.loads(this_process())
        if any(there[name] != here[name] for name in ("host", "machine")):
            return False
        if there["boot"] != here["boot"]:
            return bool(there["machine"] and there["boot"] and here["boot"])
        return there["namespace"] == here["namespace"] and _started(int(there["pid"])) != there["started"]
    except (ValueError, KeyError, TypeError):
        return False


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process was started; ``None`` if there is none, or it has ended and nobody has fetched its exit code yet.

    Linux counts from the machine's start, which a clock that is set does not change.
    """
    if Path("/proc/self/stat").exists():
        text = _read(Path(f"/proc/{pid}/stat"))
        fields = text.rpartition(")")[2].split()  # the program's name may hold blanks and brackets
        return int(fields[19]) if fields and fields[0] not in "ZX" else None
    import psutil

    try:
        found = psutil.Process(pid)
        return None if found.status() == psutil.STATUS_ZOMBIE else round(found.create_time())
    except psutil.Error:
        return None
