"""Vectors of very many texts as a catalog dataset, memory-mapped and never read as a whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from embedding_adaptation.atomic import replacing_file
from embedding_adaptation.checksums import DamagedError, check_intact, checksum_file, content_lines
from embedding_adaptation.datasets.versioned import KeptVersion
from embedding_adaptation.identity import digest_of, files_sha256
from embedding_adaptation.vectors.store import VectorError, VectorStore

_MANIFEST = "vectors.json"


@dataclass(frozen=True)
class FinishedShards:
    """Shards that a node has written into its working folder.

    Attributes:
        shards: Safetensors files in the order of the texts, one tensor ``[n, D]`` each.
        facts: Facts about them, for JSON.
    """

    shards: tuple[Path, ...]
    facts: dict[str, Any]


class VectorsDataset(AbstractDataset[FinishedShards, VectorStore]):
    """Vectors that are read block by block.

    Of a folder, saving writes down which shards belong together, and loading checks that they are still those; other shards in it are
    removed. It can also be a ``.npy`` file or a ``.safetensors`` file with one tensor, float32 ``[N, D]``, made elsewhere, which is
    only loaded.

    Args:
        filepath: The folder or file, on a local disk.
        metadata: Arbitrary values for other tools.

    Example:
        .. code-block:: yaml

            corpus_vectors:
              type: embedding_adaptation.datasets.vectors.VectorsDataset
              filepath: data/01_raw/my_vectors.npy
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath).expanduser()
        self.exclusive_folder = None if self._path.suffix else self._path
        self.keeps_itself = True
        self.metadata = metadata

    def load(self) -> VectorStore:
        """Map the vectors.

        Raises:
            DatasetError: If they are missing or damaged; the message says what to do.
        """
        try:
            if self._path.suffix in {".npy", ".safetensors"}:
                return VectorStore.of_files([self._path], {"source": self._path.name})
            return self._load_shards()
        except VectorError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: FinishedShards) -> None:
        """Record which shards belong together."""
        if isinstance(data, KeptVersion):
            return
        if self._path.suffix:
            msg = f"{self._path} is an input file of vectors and is never written to; start with --from-nodes=cluster_texts_node"
            raise DatasetError(msg)
        names = [shard.relative_to(self._path).as_posix() for shard in data.shards]
        manifest = {"facts": data.facts, "shards": {name: _fingerprint(self._path / name) for name in names}}
        with replacing_file(self._path / _MANIFEST, checksum=True) as work:
            work.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for leftover in set(self._path.glob("shard-*.safetensors")) - {self._path / name for name in names}:
            leftover.unlink()
            checksum_file(leftover).unlink(missing_ok=True)

    def _load_shards(self) -> VectorStore:
        if not (self._path / _MANIFEST).is_file():
            msg = f"there are no vectors in {self._path}; run the pipeline that writes them first"
            raise DatasetError(msg)
        try:
            check_intact(self._path / _MANIFEST)
            manifest = json.loads((self._path / _MANIFEST).read_text(encoding="utf-8"))
        except (DamagedError, ValueError) as error:
            msg = f"{self._path / _MANIFEST} is damaged; run embed_corpus_node again, which keeps the intact vectors"
            raise DatasetError(msg) from error
        files = [self._path / name for name in manifest["shards"]]
        for file, fingerprint in zip(files, manifest["shards"].values(), strict=True):
            try:
                check_intact(file)
            except DamagedError as error:
                msg = f"{error}; run embed_corpus_node again, which recomputes this file and keeps the others"
                raise DatasetError(msg) from error
            if not file.is_file() or _fingerprint(file) != fingerprint:
                msg = (
                    f"{file} is not the one that was saved: an interrupted run started to write other vectors; run embed_corpus_node again"
                )
                raise DatasetError(msg)
        return VectorStore.of_files(files, manifest["facts"])

    def content_identity(self) -> str:
        """What tells these vectors from any others: the checksums of the files that belong together, or the content of the one file.

        Raises:
            DatasetError: If they are missing or damaged.
        """
        if self._path.suffix:
            return files_sha256([self._path])
        self._load_shards()
        manifest = self._path / _MANIFEST
        names = json.loads(manifest.read_text(encoding="utf-8"))["shards"]
        return digest_of([content_lines(manifest), [content_lines(self._path / name) for name in names]])

    def _exists(self) -> bool:
        return self._path.is_file() or (self._path / _MANIFEST).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


def _fingerprint(file: Path) -> str:
    from safetensors import safe_open

    with safe_open(file, framework="np") as content:
        return str((content.metadata() or {}).get("fingerprint", ""))
