"""Checkpoints of a training run: each there in full or not at all, and recognised as torn where something tore it.

A checkpoint is a PEFT folder with AdamW's state and the history beside the adapter, in safetensors and JSON. Learning rate, batches and
dropout follow from the seed and the number of the step, so that nothing of them is stored.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors.torch import load_file, save_file

from embedding_adaptation.atomic import replacing_folder
from embedding_adaptation.identity import format_folder, tell_of_other_formats

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from peft import PeftModel

logger = logging.getLogger(__name__)

_FORMAT = 2
MANIFEST = "manifest.json"
_STATE, _OPTIMIZER, _PAIRS = "state.json", "optimizer.safetensors", "pairs.parquet"


@dataclass
class TrainingState:
    """How far a run has come, beside its weights.

    Attributes:
        rows: The history, a row a step.
        seconds: Seconds of training so far, those of earlier processes included.
        first_step: Steps before the present round.
        pairs: The round's pairs, where they are not those that were given, or have hard negatives beside them.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    first_step: int = 0
    pairs: pd.DataFrame | None = None

    @property
    def step(self) -> int:
        """Optimiser steps behind the present weights."""
        return int(self.rows[-1]["step"]) if self.rows else 0


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
        fingerprint: What the run depends on; see :meth:`.job.TrainingJob.fingerprint`.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.all_runs = folder
        self.folder = folder / format_folder(_FORMAT) / fingerprint

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
                (earlier.folder / _OPTIMIZER).unlink(missing_ok=True)
        return target

    def all(self) -> list[Checkpoint]:
        """Whole checkpoints in the order of their steps; torn ones are named in the log and left out."""
        found = []
        for folder in sorted(self.folder.glob("step-*")):
            if is_whole(folder):
                found.append(Checkpoint(int(folder.name.rpartition("-")[2]), folder, resumable=(folder / _OPTIMIZER).exists()))
            else:
                logger.warning("checkpoint %s is torn and not used", folder)
        return found

    def last(self) -> Checkpoint | None:
        """The last checkpoint that training can go on from; the log says so where there are only those of an earlier format."""
        last = next((checkpoint for checkpoint in reversed(self.all()) if checkpoint.resumable), None)
        if last is None:
            tell_of_other_formats(str(self.all_runs), (path.name for path in self.all_runs.glob("[!.]*") if path.is_dir()), _FORMAT)
        return last


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint is what was written, but for the optimizer's state, which is removed of all but the last."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        here = {name: digest for name, digest in files.items() if name != _OPTIMIZER or (folder / name).exists()}
        return bool(files) and all(_digest(folder / name) == digest for name, digest in here.items())
    except (OSError, ValueError, AttributeError):
        return False


def write_training(folder: Path, model: PeftModel, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write everything that training goes on from into a folder."""
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    moments = {
        f"{number}.{name}": value.detach().cpu().contiguous()
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    save_file(moments, folder / _OPTIMIZER)
    plain = {"rows": state.rows, "seconds": state.seconds, "first_step": state.first_step}
    (folder / _STATE).write_text(json.dumps(plain), encoding="utf-8")
    if state.pairs is not None:
        state.pairs.to_parquet(folder / _PAIRS, index=False)


def read_training(folder: Path) -> TrainingState:
    """How far the run of a checkpoint had come."""
    plain = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    pairs = pd.read_parquet(folder / _PAIRS) if (folder / _PAIRS).exists() else None
    return TrainingState(plain["rows"], plain["seconds"], plain["first_step"], pairs)


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's moments into an optimizer of the same weights."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in load_file(folder / _OPTIMIZER).items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
