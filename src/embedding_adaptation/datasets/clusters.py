"""A clustering as a catalog dataset."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.versioned import LocalVersions

if TYPE_CHECKING:
    from kedro.io import Version

NOISE = -1


@dataclass(frozen=True)
class Clusters:
    """The assignment of texts to clusters.

    Attributes:
        labels: Cluster of each text, int32 ``[N]``; 0 is the largest, ``NOISE`` (-1) belongs to none.
        distances: Cosine distance (1 - cosine, 0 to 2) of each text to its cluster's centre, float32 ``[N]``; of noise to the nearest.
        centres: Mean direction of each cluster, unit vectors, float32 ``[K, D]``.
        facts: How they were computed, for JSON.

    Raises:
        ValueError: If the arrays do not fit together.
    """

    labels: np.ndarray
    distances: np.ndarray
    centres: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels.shape != self.distances.shape or self.centres.ndim != 2 or self.labels.max(initial=NOISE) >= len(self.centres):  # noqa: PLR2004
            msg = (
                f"labels {self.labels.shape} up to {self.labels.max(initial=NOISE)}, distances {self.distances.shape} and centres "
                f"{self.centres.shape} do not fit together; cluster again"
            )
            raise ValueError(msg)

    @property
    def sizes(self) -> np.ndarray:
        """Texts in each cluster, ``[K]``; noise is left out."""
        return np.bincount(self.labels[self.labels != NOISE], minlength=len(self.centres))


class ClustersDataset(LocalVersions[Clusters, Clusters]):
    """A clustering in one safetensors file.

    Args:
        filepath: The file, on a local disk.
        version: Load and save version; ``None`` turns versioning off.
        metadata: Arbitrary values for other tools.
    """

    def __init__(self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata
        super().__init__(PurePosixPath(filepath), version)

    def load(self) -> Clusters:
        """Read the clustering.

        Raises:
            DatasetError: If the file does not contain one.
        """
        from safetensors import SafetensorError, safe_open

        path = self.intact_path()
        try:
            with safe_open(path, framework="np") as file:
                labels, distances, centres = (file.get_tensor(name) for name in ("labels", "distances", "centres"))
                return Clusters(labels, distances, centres, json.loads((file.metadata() or {})["facts"]))
        except (SafetensorError, KeyError, FileNotFoundError) as error:
            msg = f"{path} is not a clustering saved by this project ({error}); run text_clustering again"
            raise DatasetError(msg) from error

    def save(self, data: Clusters) -> None:
        """Write the clustering, in full or not at all."""
        if self.took(data):
            return
        from safetensors.numpy import save_file

        tensors = {"labels": data.labels, "distances": data.distances, "centres": data.centres}
        with self.replacing() as work:
            save_file(
                {name: np.ascontiguousarray(array) for name, array in tensors.items()}, work, metadata={"facts": json.dumps(data.facts)}
            )

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}
