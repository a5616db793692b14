"""A folder that a node works in while it runs, so that its work survives a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError


class FolderDataset(AbstractDataset[None, Path]):
    """A working folder for one run at a time: loading returns its path and creates it if necessary; its contents are up to the node.

    Args:
        filepath: The folder.
        metadata: Arbitrary values for other tools.
    """

    optional = True  # a run may start without it

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = self.exclusive_folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """The folder's path."""
        self._path.mkdir(parents=True, exist_ok=True)
        return self._path

    def save(self, data: None) -> NoReturn:  # noqa: ARG002  the interface of datasets
        """Refuse: a working folder is not an output.

        Raises:
            DatasetError: Always.
        """
        msg = f"{self._path} is a working folder and cannot be saved; nodes write to it directly"
        raise DatasetError(msg)

    def content_identity(self) -> str:
        """Empty, whatever it contains: a node's own work saves time and changes no result."""
        return ""

    def _exists(self) -> bool:
        return self._path.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
