"""Folders of checkpoints: each written in full or not at all, and checked for damage."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_adaptation.atomic import replacing_folder
from embedding_adaptation.embedder.checkpoint import ADAPTER_CONFIG
from embedding_adaptation.identity import format_folder, tell_of_other_formats

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_FORMAT = 2
TEACHERS = "teachers"  # what the loss learns from, beside the runs
MANIFEST, OPTIMIZER = "manifest.json", "optimizer.safetensors"
_STEP_FOLDER = re.compile(r"step-(\d+)")


class CheckpointError(ValueError):
    """Checkpoints cannot be used; the message says which and why."""


def checkpoint_folders(folder: str | Path) -> dict[int, Path]:
    """Adapters of a training run by step.

    Args:
        folder: Holds PEFT folders ``step-000025``, ``step-000050`` and so on; anything else in it is ignored.

    Raises:
        CheckpointError: If there are none.
    """
    adapters = {
        int(match[1]): path
        for path in sorted(Path(folder).glob("step-*"))
        if (match := _STEP_FOLDER.fullmatch(path.name)) and (path / ADAPTER_CONFIG).is_file()
    }
    if not adapters:
        msg = f"{folder} contains no checkpoints; it needs folders named step-000025, step-000050 and so on, each with an {ADAPTER_CONFIG}"
        raise CheckpointError(msg)
    return dict(sorted(adapters.items()))


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint.

    Attributes:
        step: Optimiser steps so far.
        folder: A PEFT folder, with more files beside it.
        resumable: Whether training can resume from it.
    """

    step: int
    folder: Path
    resumable: bool


class Checkpoints:
    """The checkpoints of one run, identified by its fingerprint.

    Args:
        folder: Directory of all runs' checkpoints.
        fingerprint: Identity of everything the run depends on; see :meth:`.job.TrainingJob.fingerprint`.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.all_runs = folder
        self.folder = folder / format_folder(_FORMAT) / fingerprint

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint, and delete the optimizer state of earlier ones: only the last is resumable.

        Args:
            step: Optimiser steps so far.
            write: Writes its files into a folder.

        Raises:
            OSError: If it cannot be written; earlier checkpoints are kept.
        """
        target = self.folder / f"step-{step:06d}"
        with replacing_folder(target) as work:
            write(work)
            files = {path.relative_to(work).as_posix(): _digest(path) for path in sorted(work.rglob("*")) if path.is_file()}
            (work / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
        for earlier in self.all():
            if earlier.step < step and earlier.resumable:
                (earlier.folder / OPTIMIZER).unlink(missing_ok=True)
        return target

    def all(self) -> list[Checkpoint]:
        """Intact checkpoints in the order of their steps; incomplete ones are logged and left out."""
        checkpoints = []
        for folder in sorted(self.folder.glob("step-*")):
            if is_whole(folder):
                checkpoints.append(Checkpoint(int(folder.name.rpartition("-")[2]), folder, resumable=(folder / OPTIMIZER).exists()))
            else:
                logger.warning("checkpoint %s is incomplete and is not used", folder)
        return checkpoints

    def last(self) -> Checkpoint | None:
        """The last checkpoint that training can resume from; logs a warning if there are only checkpoints in other formats."""
        last = next((checkpoint for checkpoint in reversed(self.all()) if checkpoint.resumable), None)
        if last is None:
            runs = (path.name for path in self.all_runs.glob("[!.]*") if path.is_dir() and path.name != TEACHERS)
            tell_of_other_formats(str(self.all_runs), runs, _FORMAT)
        return last


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint is intact; the optimizer's state may be missing, because only the last checkpoint keeps it."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        here = {name: digest for name, digest in files.items() if name != OPTIMIZER or (folder / name).exists()}
        return bool(files) and all(_digest(folder / name) == digest for name, digest in here.items())
    except (OSError, ValueError, AttributeError):
        return False


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
