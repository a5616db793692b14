"""Versions written in full or not at all, loaded by the run that wrote them, and checked for damage."""

from __future__ import annotations

import inspect
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from kedro.io import AbstractVersionedDataset
from kedro.io.core import DatasetError, VersionNotFoundError

from embedding_adaptation.atomic import DiskFullError, replacing_file, replacing_folder
from embedding_adaptation.checksums import DamagedError, check_intact, checksum_file, content_lines, is_intact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kedro.io import Version

    _Dataset = AbstractVersionedDataset[Any, Any]
else:
    _Dataset = object  # Kedro wraps what derives from its own class

# A path has lost one of the two slashes. One letter is a drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_DI = TypeVar("_DI")
_DO = TypeVar("_DO")


@dataclass(frozen=True)
class KeptVersion:
    """A version that an earlier run has saved. Saving it in place of data saves what that run has saved.

    Attributes:
        path: The file or folder.
    """

    path: Path


class VersionRules(_Dataset):
    """Rules for all versions on a local disk.

    - A version is written to a temporary path and then renamed: one interrupted by a crash or a full disk never counts as the newest.
    - An instance loads what it saved, whatever other runs have saved in the meantime; if it has saved nothing, the newest version.
    - A checksum next to each version is compared on loading.
    """

    _saved_version: str | None = None

    @contextmanager
    def replacing(self, *, folder: bool = False) -> Iterator[Path]:
        """A temporary path that becomes the saved version if the block succeeds.

        Args:
            folder: Whether the version is a folder.

        Raises:
            DatasetError: If the disk is full.
        """
        target = Path(self._get_save_path())
        version = self.resolve_save_version()
        try:
            with (replacing_folder if folder else replacing_file)(target, checksum=True) as work:
                yield work
        except DiskFullError as error:
            raise DatasetError(str(error)) from error
        self._saved_version = version

    def intact_path(self) -> Path:
        """The path of the version to load.

        Raises:
            DatasetError: If it is missing or damaged.
        """
        path = Path(self._get_load_path())
        if not path.exists():
            msg = f"there is no {path}; run the pipeline that writes it first"
            raise DatasetError(msg)
        try:
            check_intact(path)
        except DamagedError as error:
            way_out = f"remove {path.parent if self._version else path} and run the pipeline that writes it again"
            msg = f"{error}; {way_out} (if it was changed on purpose, remove {checksum_file(path)})"
            raise DatasetError(msg) from error
        return path

    def content_identity(self) -> str | None:
        """What tells the content to load from any other: its checksums. Empty if there is none yet, ``None`` if it is not on a local disk.

        Raises:
            DatasetError: If it is damaged.
        """
        if not self._is_local:
            return None
        try:
            path = Path(self._get_load_path())
        except VersionNotFoundError:
            return ""
        return content_lines(self.intact_path()) if path.exists() else ""

    def kept_version(self, version: str) -> KeptVersion | None:
        """An intact version of an earlier run, or ``None``."""
        if not self.has_local_versions:
            return None
        path = Path(self._get_versioned_path(version))
        return KeptVersion(path) if is_intact(path) else None

    def took(self, data: object) -> bool:
        """Whether data are a kept version; it is then saved."""
        if not isinstance(data, KeptVersion):
            return False
        with self.replacing(folder=data.path.is_dir()) as work:
            if data.path.is_dir():
                shutil.copytree(data.path, work, dirs_exist_ok=True)
            else:
                shutil.copyfile(data.path, work)
        return True

    @property
    def has_saved(self) -> bool:
        """Whether this instance has saved a version."""
        return self._saved_version is not None

    @property
    def has_local_versions(self) -> bool:
        """Whether it has versions, and they are on a local disk."""
        return self._version is not None and self._is_local

    @property
    def _is_local(self) -> bool:
        return getattr(self, "_protocol", "file") == "file"

    def _fetch_latest_load_version(self) -> str:
        return self._saved_version or super()._fetch_latest_load_version()


class LocalVersions(VersionRules, AbstractVersionedDataset[_DI, _DO]):
    """Base class of this project's versioned datasets, which lie on a local disk."""

    def __init__(self, filepath: PurePosixPath, version: Version | None) -> None:
        scheme = _SCHEME.match(str(filepath))
        if scheme:
            place = f"{scheme[1]}://{str(filepath)[scheme.end() :].lstrip('/')}"
            msg = (
                f"filepath {place} is not a local path, and {type(self).__name__} reads and writes local files only; give a local path, "
                "and copy the results elsewhere with the tools of that storage"
            )
            raise DatasetError(msg)
        super().__init__(filepath, version)


class OneFile(VersionRules):
    """Mixin for Kedro's datasets that write one file in place: applies these rules to their versions.

    Files not on a local disk are left to Kedro.
    """

    _work: Path | None = None
    _protocol: str

    def save(self, data: Any) -> None:
        """Let Kedro's dataset write to a temporary path, then rename."""
        # Without Kedro's look at the version behind it, which is not there yet.
        write = inspect.unwrap(super().save.__func__)  # type: ignore[attr-defined, safe-super]
        if not self._is_local:
            write(self, data)
            return
        if self.took(data):
            return
        with self.replacing() as work:
            self._work = work
            try:
                write(self, data)
            finally:
                self._work = None

    def load(self) -> Any:
        """Check the version, then let Kedro's dataset read it."""
        if self._protocol == "file":
            self.intact_path()
        return super().load()  # type: ignore[safe-super]

    def _get_save_path(self) -> PurePosixPath:
        return super()._get_save_path() if self._work is None else PurePosixPath(self._work)
