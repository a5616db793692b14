"""Fitted after-processing as a catalog dataset."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from embedding_adaptation.datasets.versioned import LocalVersions
from embedding_adaptation.embedder.after_processing import AfterProcessing

if TYPE_CHECKING:
    from kedro.io import Version

_MEAN, _MATRIX, _DIMENSIONS = "/mean", "/matrix", "dimensions"


class AfterProcessingDataset(LocalVersions[dict[str, AfterProcessing], dict[str, AfterProcessing]]):
    """The fitted after-processing of strategies in one safetensors file: ``NAME/mean`` and, where there is one, ``NAME/matrix``.

    Args:
        filepath: The file, on a local disk.
        version: Load and save version; ``None`` turns versioning off.
        metadata: Free values for other tools.
    """

    def __init__(self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata
        super().__init__(PurePosixPath(filepath), version)

    def load(self) -> dict[str, AfterProcessing]:
        """After-processing by the strategy's name; empty where no strategy has any."""
        from safetensors import safe_open

        with safe_open(self.intact_path(), framework="np") as file:
            dimensions = json.loads(file.metadata()[_DIMENSIONS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  a safetensors file is no dict
        names = [name.removesuffix(_MEAN) for name in tensors if name.endswith(_MEAN)]
        return {name: AfterProcessing(tensors[name + _MEAN], tensors.get(name + _MATRIX), dimensions[name]) for name in names}

    def save(self, data: dict[str, AfterProcessing]) -> None:
        """Write it; the file is there in full or not at all."""
        from safetensors.numpy import save_file

        tensors = {name + _MEAN: after.mean for name, after in data.items()}
        tensors |= {name + _MATRIX: after.matrix for name, after in data.items() if after.matrix is not None}
        with self.replacing() as work:
            save_file(tensors, work, metadata={_DIMENSIONS: json.dumps({name: after.dimensions for name, after in data.items()})})

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}
