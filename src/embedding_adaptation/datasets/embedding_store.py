"""Vectors by model and text: a text is never embedded twice by the same weights, template and pooling."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from embedding_adaptation.atomic import replacing_file
from embedding_adaptation.checksums import is_intact
from embedding_adaptation.identity import digest_of, format_folder, tell_of_other_formats, text_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

_FORMAT = 3  # incremented when the same identity means different vectors
_DIGEST_BYTES = 16
_DIGESTS, _VECTORS = "digests", "vectors"


class EmbeddingStore:
    """Vectors in safetensors shards, one folder per key (weights, strategy, settings).

    Contents never change: a key includes everything that affects a vector, so a store can be filled by many runs and deleted at any time
    without changing a result. A shard exists in full or not at all, and damaged ones are ignored. Vectors in other formats are
    left in place and not used.

    Args:
        folder: The directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / format_folder(_FORMAT)
        self._places: dict[str, dict[bytes, tuple[Path, int]]] = {}
        self._last: tuple[Path, np.ndarray] | None = None

    def missing(self, key: str, texts: Sequence[str]) -> list[str]:
        """The distinct texts that have no vector yet, in order."""
        places = self._index(key)
        return [text for text in dict.fromkeys(texts) if text_digest(text) not in places]

    def add(self, key: str, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Keep vectors.

        Args:
            key: Identity of what produced them, see :func:`~embedding_adaptation.identity.vectors_identity`.
            texts: Distinct texts.
            vectors: ``[N, D]``.
        """
        from safetensors.numpy import save_file

        if not self.folder.is_dir():
            tell_of_other_formats(str(self.folder.parent), (path.name for path in self.folder.parent.glob("[!.]*")), _FORMAT)
        digests = [text_digest(text, _DIGEST_BYTES) for text in texts]
        name = digest_of([digest.hex() for digest in digests])[:24]
        path = self.folder / key / f"{name}.safetensors"
        table = np.frombuffer(b"".join(digests), np.uint8).reshape(len(texts), _DIGEST_BYTES)  # [N, 16]
        with replacing_file(path, checksum=True) as work:
            save_file({_DIGESTS: table.copy(), _VECTORS: np.ascontiguousarray(vectors, np.float32)}, work)
        self._index(key).update({digest: (path, row) for row, digest in enumerate(digests)})

    def vectors(self, key: str, texts: Sequence[str]) -> np.ndarray:
        """Vectors of stored texts, ``[N, D]`` float32.

        Raises:
            KeyError: If a text has none.
        """
        places = self._index(key)
        by_shard: dict[Path, tuple[list[int], list[int]]] = {}
        for number, text in enumerate(texts):
            path, row = places[text_digest(text)]
            wanted, rows = by_shard.setdefault(path, ([], []))
            wanted.append(number)
            rows.append(row)
        matrix = np.empty((0, 0), np.float32)
        for path, (wanted, rows) in by_shard.items():
            shard = self._read(path)
            if not matrix.size:
                matrix = np.empty((len(texts), shard.shape[1]), np.float32)  # [N, D]
            matrix[wanted] = shard[rows]
        return matrix

    def _index(self, key: str) -> dict[bytes, tuple[Path, int]]:
        if key not in self._places:
            from safetensors import safe_open

            places: dict[bytes, tuple[Path, int]] = {}
            for path in sorted((self.folder / key).glob("[!.]*.safetensors")):
                if not is_intact(path):
                    logger.warning("%s is damaged or has no checksum; it is removed, and its vectors will be computed again", path)
                    path.unlink(missing_ok=True)
                    continue
                with safe_open(path, framework="np") as file:
                    table = file.get_tensor(_DIGESTS)
                places.update({row.tobytes(): (path, number) for number, row in enumerate(table)})
            self._places[key] = places
        return self._places[key]

    def _read(self, path: Path) -> np.ndarray:
        if self._last is None or self._last[0] != path:
            from safetensors import safe_open

            with safe_open(path, framework="np") as file:
                self._last = (path, file.get_tensor(_VECTORS))
        return self._last[1]


class EmbeddingStoreDataset(AbstractDataset[None, EmbeddingStore]):
    """An :class:`EmbeddingStore` in the catalog. A node adds to it as it goes, so that a crash costs little; nothing is saved at the end.

    Args:
        filepath: The directory.
        metadata: Arbitrary values for other tools.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.written_when_loaded = True
        self.metadata = metadata

    def load(self) -> EmbeddingStore:
        """The store, empty at first."""
        return EmbeddingStore(self._path)

    def save(self, data: None) -> None:  # noqa: ARG002
        """Refuse: vectors are added one shard at a time."""
        msg = "an embedding store is filled through its add method, not saved"
        raise DatasetError(msg)

    def content_identity(self) -> str:
        """Empty, whatever it contains: vectors that are known save time and change no result."""
        return ""

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
