"""Files of vectors that together hold those of any number of texts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from embedding_adaptation.atomic import replacing_file
from embedding_adaptation.checksums import is_intact
from embedding_adaptation.identity import digest_of, texts_in_order

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger(__name__)

_FORMAT = 2  # incremented when the contents of shards with the same identity change


@dataclass(frozen=True)
class Shard:
    """A file of vectors, finished or not.

    Attributes:
        path: The safetensors file.
        metadata: Identity of its texts, weights and strategy.
    """

    path: Path
    metadata: dict[str, str]

    def write(self, vectors: np.ndarray) -> None:
        """Write the vectors ``[n, D]``."""
        with replacing_file(self.path, checksum=True) as work:
            save_file({"vectors": np.ascontiguousarray(vectors)}, work, metadata=self.metadata)


class ShardFolder:
    """A folder of shards.

    Args:
        folder: The folder.
        identity: Identity of weights and strategy, see :func:`~embedding_adaptation.identity.vectors_identity`.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self._identity = identity
        self._has_warned = False

    def shard(self, number: int, texts: Iterable[str]) -> Shard:
        """The shard of some texts."""
        metadata = {"format": str(_FORMAT), "fingerprint": digest_of([self._identity, texts_in_order(texts)])}
        return Shard(self.folder / f"shard-{number:06d}.safetensors", metadata)

    def is_finished(self, shard: Shard) -> bool:
        """Whether the file has these texts' vectors and is undamaged."""
        if not (shard.path.exists() and is_intact(shard.path)):
            return False
        with safe_open(shard.path, framework="np") as file:
            stored = file.metadata() or {}
        if stored.get("format") != shard.metadata["format"] and not self._has_warned:
            self._has_warned = True
            logger.warning("%s contains vectors in another format than %d; they are computed again", self.folder, _FORMAT)
        return bool(stored == shard.metadata)
