"""Tables written piece by piece, so that work done survives a crash."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from embedding_adaptation.atomic import replacing_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd


class ShardsDataset(AbstractDataset["Mapping[str, pd.DataFrame]", "dict[str, pd.DataFrame]"]):
    """Named parquet shards below one directory, each there in full or not at all.

    Saving adds the given shards and leaves the others; loading returns all of them, and an empty mapping where there are none. Kedro's
    ``PartitionedDataset`` writes in place and cannot load an empty directory.

    Args:
        filepath: The directory. A shard's name may hold ``/`` for a folder in it.
        metadata: Free values for other tools.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.metadata = metadata

    def load(self) -> dict[str, pd.DataFrame]:
        """All finished shards by name, in name order."""
        import pandas as pd

        return {self._name(path): pd.read_parquet(path) for path in sorted(self._path.rglob("*.parquet"))}

    def save(self, data: Mapping[str, pd.DataFrame]) -> None:
        """Add shards; one of the same name is replaced."""
        for name, frame in data.items():
            target = self._path / f"{name}.parquet"
            if not target.resolve().is_relative_to(self._path.resolve()):
                msg = f"shard name {name!r} leaves the directory {self._path}; use a plain name"
                raise DatasetError(msg)
            with replacing_file(target) as work:
                frame.to_parquet(work, index=False)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._path).with_suffix("").as_posix()

    def _exists(self) -> bool:
        return any(self._path.rglob("*.parquet"))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
