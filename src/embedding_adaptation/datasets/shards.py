"""Tables written piece by piece, so that finished work survives a crash."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from embedding_adaptation.atomic import DiskFullError, replacing_file
from embedding_adaptation.checksums import content_lines, is_intact
from embedding_adaptation.datasets.versioned import KeptVersion
from embedding_adaptation.identity import digest_of

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class Shards(Mapping[str, "pd.DataFrame"]):
    """Finished shards by name, in name order; each is read on access.

    Args:
        folder: The directory.

    Attributes:
        damaged: Names of damaged shards, which are treated as missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: list[str] = []
        self.damaged: set[str] = set()
        for path in sorted(folder.rglob("[!.]*.parquet")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if is_intact(path):
                self._names.append(name)
            else:
                self.damaged.add(name)
                logger.warning("%s is damaged or has no checksum; it is not used and will be generated again if needed", path)
        self._known = set(self._names)

    def __getitem__(self, name: str) -> pd.DataFrame:
        import pandas as pd

        if name not in self._known:
            raise KeyError(name)
        return pd.read_parquet(self._folder / f"{name}.parquet")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._known


class ShardsDataset(AbstractDataset["Mapping[str, pd.DataFrame]", Shards]):
    """Named parquet shards below one directory, each written in full or not at all.

    Saving adds the given shards and leaves the others; loading returns a mapping that reads each on access, an empty one if
    there are none. Kedro's
    ``PartitionedDataset`` writes in place and cannot load an empty directory.

    Args:
        filepath: The directory. A ``/`` in a shard's name stands for a subfolder.
        exclusive: Whether only one run at a time may write here, because shards are numbered.
        optional: Whether a run may start without any shards.
        metadata: Arbitrary values for other tools.
    """

    def __init__(self, *, filepath: str, exclusive: bool = False, optional: bool = False, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.optional = optional
        self.exclusive_folder = self._path if exclusive else None
        self.keeps_itself = not optional
        self.metadata = metadata

    def load(self) -> Shards:
        """All finished shards by name."""
        return Shards(self._path)

    def save(self, data: Mapping[str, pd.DataFrame]) -> None:
        """Add shards, replacing those of the same name."""
        if isinstance(data, KeptVersion):
            return
        for name, frame in data.items():
            target = self._path / f"{name}.parquet"
            if not target.resolve().is_relative_to(self._path.resolve()):
                msg = f"shard name {name!r} leaves the directory {self._path}; use a plain name"
                raise DatasetError(msg)
            try:
                with replacing_file(target, checksum=True) as work:
                    frame.to_parquet(work, index=False)
            except DiskFullError as error:
                raise DatasetError(str(error)) from error

    def content_identity(self) -> str:
        """What tells the shards from any others: names and checksums. Empty if a run may start without any, which then only reuses them."""
        if self.optional:
            return ""
        files = [path for path in sorted(self._path.rglob("[!.]*.parquet")) if is_intact(path)]
        return digest_of({path.relative_to(self._path).as_posix(): content_lines(path) for path in files})

    def _exists(self) -> bool:
        return any(self._path.rglob("[!.]*.parquet"))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
