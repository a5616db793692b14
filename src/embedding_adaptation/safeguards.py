"""What is looked at before a run touches its folders: can they be written, is another run at work there, what has a killed one left."""

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
    """Refuse a run that cannot write its results or would work in another's folder, and clear away what killed runs left.

    Versioned results and stores whose files are named after their contents can be written by several runs at once. Working folders whose
    files are numbered (datasets with an ``exclusive_folder``) belong to one run at a time.
    """

    def __init__(self) -> None:
        self._locks: list[FolderLock] = []

    @hook_impl(trylast=True)  # where another hook stops the run, nothing has been taken yet
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Look at the folders of all datasets the run writes.

        Raises:
            DatasetError: If one cannot be written, or belongs to a run that is going on; the message says which and what to do.
        """
        self._release()  # of a run in this process that was interrupted
        outputs = pipeline.all_outputs()
        written: dict[Path, str] = {}
        exclusive: dict[Path, str] = {}
        own: set[Path] = set()  # folders in which there is nothing but the dataset's: beside its file there may be anything, a home folder
        for name in sorted(pipeline.datasets()):
            dataset = catalog.get(name)
            folder = getattr(dataset, "exclusive_folder", None)
            if folder is not None:
                exclusive[folder] = name
            is_store = getattr(dataset, "written_when_loaded", False)
            if folder is not None or name in outputs or is_store:
                place = folder or _place(dataset)
                if place is not None:
                    written[place] = name
                    if folder is not None or is_store or place == _path(dataset):
                        own.add(place)
        check_writable(written)
        try:
            for folder, name in exclusive.items():
                lock = FolderLock(folder)
                lock.take(name)
                self._locks.append(lock)
        except BaseException:
            self._release()  # Kedro calls no hook for a run that does not begin
            raise
        removed = sum(clean_leftovers(place, deep=place in own) for place in written)
        removed += clean_leftovers(Path(tempfile.gettempdir()), deep=False)
        if removed:
            logger.info("removed %d unfinished files of runs that were killed", removed)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Let the next run in."""
        self._release()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Let the next run in."""
        self._release()

    def _release(self) -> None:
        while self._locks:
            self._locks.pop().release()


class FolderLock:
    """A folder that belongs to one run at a time. The operating system holds the lock, so that a killed process leaves none.

    Args:
        folder: The folder; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: BaseFileLock | None = None

    def take(self, name: str) -> None:
        """Take the lock.

        Args:
            name: What to call the folder in a message.

        Raises:
            DatasetError: If a run has it; the message says which.
        """
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK, blocking=False, fallback_to_soft=False, thread_local=False, preserve_lock_file=True)
        try:
            lock.acquire()
        except Timeout:
            msg = (
                f"another run is at work in {self.folder} ({name}): {self._holder()}; wait until it has ended, or give this one another "
                "place (output in conf/base/globals.yml)"
            )
            raise DatasetError(msg) from None
        except (NotImplementedError, OSError) as error:
            logger.warning("%s cannot be locked (%s): start no second run in it while this one goes on", self.folder, error)
            return
        self._lock = lock
        facts = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T"), "command": " ".join(sys.argv)}
        (self.folder / _HOLDER).write_text(json.dumps(facts), encoding="utf-8")

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            (self.folder / _HOLDER).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _holder(self) -> str:
        try:
            facts = json.loads((self.folder / _HOLDER).read_text(encoding="utf-8"))
            return f"process {facts['process']} on {facts['host']} since {facts['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "a process that has just begun"


def check_writable(places: dict[Path, str]) -> None:
    """Check that something can be written to folders, or to where they will be made.

    Args:
        places: What to call them, by folder.

    Raises:
        DatasetError: If not; the message says which and why.
    """
    tried: set[Path] = set()
    for place, name in places.items():
        there = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
        if there in tried:
            continue
        tried.add(there)
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            msg = (
                f"{there} cannot be written to ({error.strerror}), and {name} goes there; make it writable, or name another place "
                "(output in conf/base/globals.yml)"
            )
            raise DatasetError(msg) from error


def _path(dataset: Any) -> Path | None:
    path = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
    return None if path is None or getattr(dataset, "_protocol", "file") != "file" else Path(path)


def _place(dataset: Any) -> Path | None:
    """The local folder that a dataset's files lie in, where there is one: its path, or what is above a file without versions."""
    place = _path(dataset)
    return place if place is None or getattr(dataset, "_version", None) or not place.suffix else place.parent
