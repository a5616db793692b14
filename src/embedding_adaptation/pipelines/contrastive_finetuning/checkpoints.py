"""Checkpoints of a training run: each there in full or not at all, and recognised as torn where something tore it."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_adaptation.atomic import replacing_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_RESUME_FILES = ("optimizer.safetensors", "random_state.safetensors", "trainer_state.json", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        step: Optimiser steps behind it.
        folder: A PEFT folder, with more files beside it.
        resumable: Whether training can go on from it.
    """

    step: int
    folder: Path
    resumable: bool


class Checkpoints:
    """The checkpoints of one run, which a fingerprint names.

    Args:
        folder: Directory of all runs' checkpoints.
        fingerprint: What the run depends on; see :func:`fingerprint_of`.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / fingerprint

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint, and make the earlier ones smaller: only the last can be gone on from.

        Args:
            step: Optimiser steps behind it.
            write: Writes its files into a folder.

        Raises:
            OSError: If it cannot be written; what was there before is still there.
        """
        target = self.folder / f"step-{step:06d}"
        with replacing_folder(target) as work:
            write(work)
            files = {path.relative_to(work).as_posix(): _digest(path) for path in sorted(work.rglob("*")) if path.is_file()}
            (work / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
        for earlier in self.all():
            if earlier.step < step and earlier.resumable:
                for name in _RESUME_FILES[:2]:
                    (earlier.folder / name).unlink(missing_ok=True)
        return target

    def all(self) -> list[Checkpoint]:
        """Whole checkpoints in the order of their steps; torn ones are named in the log and left out."""
        found = []
        for folder in sorted(self.folder.glob("step-*")):
            gone = _gone(folder)
            if gone is not None:
                found.append(Checkpoint(int(folder.name.rpartition("-")[2]), folder, resumable=not gone))
            else:
                logger.warning("checkpoint %s is torn and not used", folder)
        return found

    def last(self) -> Checkpoint | None:
        """The last checkpoint that training can go on from."""
        return next((checkpoint for checkpoint in reversed(self.all()) if checkpoint.resumable), None)


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint is what was written, but for what is removed of all but the last."""
    return _gone(folder) is not None


def fingerprint_of(parts: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> str:
    """A name for everything a run's result depends on.

    Args:
        parts: Plain values.
        tables: Pairs, whose texts count.
    """
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=8)
    for name, table in tables.items():
        digest.update(name.encode())
        for column in ("source_text", "generated_text"):
            for text in table[column] if column in table else table.iloc[:, 0]:
                digest.update(str(text).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _gone(folder: Path) -> set[str] | None:
    """Files of a whole checkpoint that were removed, as the optimizer's state of all but the last is; ``None`` for a torn one."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        gone = {name for name in files if not (folder / name).exists()} & set(_RESUME_FILES)
        whole = bool(files) and all(_digest(folder / name) == digest for name, digest in files.items() if name not in gone)
    except (OSError, ValueError, AttributeError):
        return None
    return gone if whole else None
