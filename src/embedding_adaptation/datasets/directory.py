"""A versioned dataset that is a directory, written atomically."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from embedding_adaptation.datasets.versioned import LocalVersions

if TYPE_CHECKING:
    from kedro.io import Version

_DI = TypeVar("_DI")
_DO = TypeVar("_DO")


class DirectoryDataset(LocalVersions[_DI, _DO], Generic[_DI, _DO]):
    """Base class of datasets whose value is a directory of files.

    A version exists in full or not at all, and damage to any of its files is detected.

    Args:
        filepath: The directory, on a local disk. Versions lie below it.
        version: Load and save version; ``None`` turns versioning off, and saving replaces the directory.
        metadata: Arbitrary values for other tools (kedro-viz layers, MLflow logging).
    """

    def __init__(self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata
        super().__init__(PurePosixPath(filepath), version)

    @abstractmethod
    def read_directory(self, directory: Path) -> _DO:
        """Read the value from its directory."""

    @abstractmethod
    def write_directory(self, data: _DI, directory: Path) -> None:
        """Write the value into an empty directory."""

    def load(self) -> _DO:
        """Load the requested version, or the newest.

        Raises:
            DatasetError: If there is none, or it is damaged; the message says how to get one.
        """
        return self.read_directory(self.intact_path())

    def save(self, data: _DI) -> None:
        """Save as a new version, or replace the unversioned directory."""
        if self.took(data):
            return
        with self.replacing(folder=True) as directory:
            self.write_directory(data, directory)

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}
