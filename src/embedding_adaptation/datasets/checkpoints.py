"""Checkpoints of a training run as a catalog dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from embedding_adaptation.checkpoint_folders import MANIFEST, CheckpointError, checkpoint_folders, is_whole


class CheckpointsDataset(AbstractDataset[None, "dict[int, Path]"]):
    """PEFT folders ``step-000025``, ``step-000050`` and so on below one directory. Loads their paths by step; cannot be saved.

    Args:
        filepath: The directory. If it contains several runs, the one written last is used.
        metadata: Arbitrary values for other tools.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath).expanduser()
        self.metadata = metadata

    def check_input(self) -> None:
        """Fail early: look for checkpoints before the run starts.

        Raises:
            DatasetError: If there is none.
        """
        self.load()

    def load(self) -> dict[int, Path]:
        """Paths of the adapters by step.

        Raises:
            DatasetError: If there is none, or one is damaged.
        """
        folders = [path for path in self._path.rglob("step-*") if path.is_dir()]
        newest = max(folders, key=lambda path: path.stat().st_mtime).parent if folders else self._path
        damaged = sorted(path.name for path in newest.glob("step-*") if (path / MANIFEST).is_file() and not is_whole(path))
        if damaged:
            msg = f"{newest / damaged[0]} is damaged; remove it to do without this step, or remove {newest} and train again"
            raise DatasetError(msg)
        try:
            return checkpoint_folders(newest)
        except CheckpointError as error:
            msg = f"{error}. Give the right directory: --params checkpoints=PATH"
            raise DatasetError(msg) from error

    def save(self, data: None) -> None:  # noqa: ARG002
        """Refuse: checkpoints are written by the training."""
        msg = "checkpoints are an input of this pipeline and cannot be saved"
        raise DatasetError(msg)

    def _exists(self) -> bool:
        return any(self._path.rglob("step-*"))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
