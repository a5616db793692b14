"""Checks before a run touches its folders: are they writable, is another run using them, and has a killed run left files behind."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io.core import DatasetError

from embedding_adaptation.atomic import clean_leftovers

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

logger = logging.getLogger(__name__)

_LOCK, _HOLDER = ".run.lock", ".run.json"


class Safeguards:
    """Stop a run that cannot write its results or would share another run's folder, and remove what killed runs left behind.

    Several runs may write versioned results, and stores that name files after their contents, at the same time. Working folders with
    numbered files (datasets with an ``exclusive_folder``) belong to one run at a time.
    """

    def __init__(self) -> None:
        self._locks: list[FolderLock] = []

    @hook_impl(trylast=True)  # if another hook stops the run, no lock has been taken yet
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Check the folders of all datasets that the run writes.

        Raises:
            DatasetError: If one is not writable or in use by another run; the message says which and what to do.
        """
        self._release()  # the locks of an interrupted run in this process
        outputs = pipeline.all_outputs()
        written: dict[Path, str] = {}
        exclusive: dict[Path, str] = {}
        own: set[Path] = set()  # folders that hold nothing but the dataset; the folder around a single file may hold anything
        for name in sorted(pipeline.datasets()):
            dataset = catalog.get(name)
            folder = getattr(dataset, "exclusive_folder", None)
            if folder is not None:
                exclusive[folder] = name
            is_store = getattr(dataset, "written_when_loaded", False)
            if folder is not None or name in outputs or is_store:
                target = folder or _folder(dataset)
                if target is not None:
                    written[target] = name
                    if folder is not None or is_store or target == _path(dataset):
                        own.add(target)
        check_writable(written)
        try:
            for folder, name in exclusive.items():
                lock = FolderLock(folder)
                lock.take(name)
                self._locks.append(lock)
        except BaseException:
            self._release()  # Kedro calls no hook for a run that does not start
            raise
        removed = sum(clean_leftovers(folder, deep=folder in own) for folder in written)
        removed += clean_leftovers(Path(tempfile.gettempdir()), deep=False)
        if removed:
            logger.info("removed %d unfinished files left by killed runs", removed)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Release the folders."""
        self._release()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Release the folders."""
        self._release()

    def _release(self) -> None:
        while self._locks:
            self._locks.pop().release()


class FolderLock:
    """A folder that belongs to one run at a time. The operating system holds the lock, so a killed process leaves none behind.

    Args:
        folder: The folder; created if necessary.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: BaseFileLock | None = None

    def take(self, name: str) -> None:
        """Take the lock.

        Args:
            name: Name of the folder's dataset, for the message.

        Raises:
            DatasetError: If another run holds it; the message says which.
        """
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK, blocking=False, fallback_to_soft=False, thread_local=False, preserve_lock_file=True)
        try:
            lock.acquire()
        except Timeout:
            msg = (
                f"another run is using {self.folder} ({name}): {self._holder()}; wait until it has ended, or choose another folder "
                "(output in conf/base/globals.yml)"
            )
            raise DatasetError(msg) from None
        except (NotImplementedError, OSError) as error:
            logger.warning("%s cannot be locked (%s): do not start a second run in it before this one has ended", self.folder, error)
            return
        self._lock = lock
        facts = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T"), "command": " ".join(sys.argv)}
        (self.folder / _HOLDER).write_text(json.dumps(facts), encoding="utf-8")

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            (self.folder / _HOLDER).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _holder(self) -> str:
        try:
            facts = json.loads((self.folder / _HOLDER).read_text(encoding="utf-8"))
            return f"process {facts['process']} on {facts['host']} since {facts['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "a process that has just started"


def check_writable(folders: dict[Path, str]) -> None:
    """Check that folders, or the nearest existing folders above them, are writable.

    Args:
        folders: Names of the datasets, for the message, by folder.

    Raises:
        DatasetError: If one is not writable; the message says which and why.
    """
    tried: set[Path] = set()
    for folder, name in folders.items():
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
        if existing in tried:
            continue
        tried.add(existing)
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            msg = (
                f"cannot write {name} to {existing} ({error.strerror}); make the folder writable, or choose another one "
                "(output in conf/base/globals.yml)"
            )
            raise DatasetError(msg) from error


def _path(dataset: Any) -> Path | None:
    path = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
    return None if path is None or getattr(dataset, "_protocol", "file") != "file" else Path(path)


def _folder(dataset: Any) -> Path | None:
    """The local folder of a dataset's files, if any: its path, or the parent of an unversioned file."""
    path = _path(dataset)
    return path if path is None or getattr(dataset, "_version", None) or not path.suffix else path.parent
