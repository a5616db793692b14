"""Text vectors as a catalog dataset."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.versioned import LocalVersions
from embedding_adaptation.embedder.after_processing import AfterProcessing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kedro.io import Version

logger = logging.getLogger(__name__)

_FORMAT = 4  # incremented when the same header changes its meaning
_IDS, _WEIGHTS, _IDENTITIES, _FORMAT_FIELD = "ids", "weights", "identities", "format"
# Tensors of fitted after-processing, after/ARRAY/STRATEGY, and the numbers that belong to them in the header.
_AFTER, _AFTER_SETTINGS = "after/", "after_processing"


@dataclass(frozen=True)
class Embeddings:
    """Vectors of the same texts under several strategies.

    Attributes:
        ids: Id of each text.
        vectors: For each strategy's name a float32 array ``[N, D]``, rows in the order of ``ids``.
        weights: Fingerprint of the weights that made them, see :meth:`~embedding_adaptation.embedder.weights.DecoderWeights.fingerprint`;
            empty if unknown.
        identities: Identity of each strategy by name, see :attr:`~embedding_adaptation.options.EmbedderOptions.identities`;
            empty if the vectors were produced by other means, which are identified by name.
        after: Fitted after-processing by strategy, for those that have some.

    Raises:
        ValueError: If an array's rows do not match the ids.
    """

    ids: tuple[str, ...]
    vectors: dict[str, np.ndarray]
    weights: str = ""
    identities: dict[str, str] = field(default_factory=dict)
    after: dict[str, AfterProcessing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, matrix in self.vectors.items():
            if matrix.ndim != 2 or matrix.shape[0] != len(self.ids):  # noqa: PLR2004  rows and columns
                msg = f"strategy {name!r} has vectors of shape {matrix.shape} for {len(self.ids)} texts; give one row per text"
                raise ValueError(msg)

    def renamed(self, identities: Mapping[str, str]) -> Embeddings:
        """The embeddings under the current names of their strategies; those that no longer exist are left out.

        Args:
            identities: Identity of each current strategy by name.
        """
        if not self.identities:
            return self
        old_names = {identity: name for name, identity in self.identities.items()}
        changed = [name for name, identity in identities.items() if name in self.identities and identity not in old_names]
        if changed:
            logger.warning(
                "strategies %s have changed since they were embedded and are left out; run embedding_extraction again",
                ", ".join(map(repr, changed)),
            )
        names = {name: old_names[identity] for name, identity in identities.items() if identity in old_names}
        return Embeddings(
            self.ids,
            {name: self.vectors[old] for name, old in names.items() if old in self.vectors},
            self.weights,
            {name: identities[name] for name in names},
            {name: self.after[old] for name, old in names.items() if old in self.after},
        )


class EmbeddingsDataset(LocalVersions[Embeddings, Embeddings]):
    """Embeddings in one safetensors file: one tensor per strategy and those of its after-processing; ids and names in the file's header.

    Args:
        filepath: The file, on a local disk.
        version: Load and save version; ``None`` turns versioning off.
        metadata: Arbitrary values for other tools.
    """

    def __init__(self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata
        self.optional = True  # a run may start without embeddings: model_export then fits after-processing itself
        super().__init__(PurePosixPath(filepath), version)

    def load(self) -> Embeddings:
        """Read the vectors; without any texts if none have been saved.

        Raises:
            DatasetError: If the file is not one of this project's, or was written by an earlier version.
        """
        from safetensors import SafetensorError, safe_open

        asked_for = self._version is not None and self._version.load
        if not asked_for and not self.exists():
            return Embeddings((), {})
        path = self.intact_path()
        try:
            with safe_open(path, framework="np") as file:
                header = file.metadata() or {}
                if _IDS in header and header.get(_FORMAT_FIELD) != str(_FORMAT):
                    msg = f"{path} is not in format {_FORMAT}, the only one this version reads; run embedding_extraction again"
                    raise DatasetError(msg)
                ids = json.loads(header[_IDS])
                vectors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (SafetensorError, KeyError) as error:
            msg = f"{path} is not an embeddings file of this project ({error}); run embedding_extraction again"
            raise DatasetError(msg) from error
        arrays: dict[str, dict[str, np.ndarray]] = {}
        for tensor in [tensor for tensor in vectors if tensor.startswith(_AFTER)]:
            kind, _, name = tensor.removeprefix(_AFTER).partition("/")
            arrays.setdefault(name, {})[kind] = vectors.pop(tensor)
        after = {name: AfterProcessing.restored(arrays[name], settings) for name, settings in json.loads(header[_AFTER_SETTINGS]).items()}
        return Embeddings(tuple(ids), vectors, header[_WEIGHTS], json.loads(header[_IDENTITIES]), after)

    def save(self, data: Embeddings) -> None:
        """Write the vectors, in full or not at all."""
        if self.took(data):
            return
        from safetensors.numpy import save_file

        tensors = {name: np.ascontiguousarray(matrix, dtype=np.float32) for name, matrix in data.vectors.items()}
        tensors |= {f"{_AFTER}{kind}/{name}": array for name, after in data.after.items() for kind, array in after.arrays().items()}
        header = {
            _FORMAT_FIELD: str(_FORMAT),
            _IDS: json.dumps(list(data.ids)),
            _WEIGHTS: data.weights,
            _IDENTITIES: json.dumps(data.identities),
            _AFTER_SETTINGS: json.dumps({name: after.settings() for name, after in data.after.items()}),
        }
        with self.replacing() as work:
            save_file(tensors, work, metadata=header)

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}
