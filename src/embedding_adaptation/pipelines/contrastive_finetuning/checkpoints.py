"""The contents of a training run's checkpoint.

A checkpoint is a PEFT folder with AdamW's state and the history beside the adapter, in safetensors and JSON. Learning rate, batches and
dropout depend only on the seed and the step, so they are not stored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors.torch import load_file, save_file

from embedding_adaptation.checkpoint_folders import OPTIMIZER

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from peft import PeftModel

_STATE, _PAIRS = "state.json", "pairs.parquet"


@dataclass
class TrainingState:
    """The progress of a run, apart from its weights.

    Attributes:
        rows: The history, one row per step.
        seconds: Seconds of training so far, including earlier processes.
        first_step: Steps before the present round.
        pairs: The round's pairs, if they differ from those given or have hard negatives.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    first_step: int = 0
    pairs: pd.DataFrame | None = None

    @property
    def step(self) -> int:
        """Optimiser steps behind the present weights."""
        return int(self.rows[-1]["step"]) if self.rows else 0


def write_training(folder: Path, model: PeftModel, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write everything needed to resume training into a folder."""
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    moments = {
        f"{number}.{name}": value.detach().cpu().contiguous()
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    save_file(moments, folder / OPTIMIZER)
    plain = {"rows": state.rows, "seconds": state.seconds, "first_step": state.first_step}
    (folder / _STATE).write_text(json.dumps(plain), encoding="utf-8")
    if state.pairs is not None:
        state.pairs.to_parquet(folder / _PAIRS, index=False)


def read_training(folder: Path) -> TrainingState:
    """The progress stored in a checkpoint."""
    plain = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    pairs = pd.read_parquet(folder / _PAIRS) if (folder / _PAIRS).exists() else None
    return TrainingState(plain["rows"], plain["seconds"], plain["first_step"], pairs)


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load a checkpoint's moments into an optimizer of the same weights."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in load_file(folder / OPTIMIZER).items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
