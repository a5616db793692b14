"""Files and folders that exist completely or not at all, with checksums that show whether they are still what was written."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_adaptation.checksums import checksum_file, checksum_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

# A container may share the machine's name but number its own processes.
_NAMESPACE = Path("/proc/self/ns/pid")
_NUMBERS = re.sub(r"\D", "", str(_NAMESPACE.readlink())) if _NAMESPACE.is_symlink() else ""
_HOST = (re.sub(r"[^A-Za-z0-9]", "_", platform.node())[:32] or "host") + (f"_{_NUMBERS}" if _NUMBERS else "")
_WORK_NAME = re.compile(r"^(?:\.|embedding-adaptation)(?P<name>.*)\.(?P<host>\w+)\.(?P<process>\d+)-\w{8}$")
_SCRATCH = "embedding-adaptation"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_TEXT = re.compile(r"no space left on device|os error 28\b|errno 28\b|quota exceeded", re.IGNORECASE)
_MB = 1 << 20
# The error codes of renaming a folder onto one that is not empty.
_OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST}
_TRIES = 100


class DiskFullError(OSError):
    """A full disk; the message names it and says what to do."""


@contextmanager
def replacing_file(target: Path, *, checksum: bool = False) -> Iterator[Path]:
    """A temporary file beside ``target`` that replaces it if the block succeeds, and is deleted if it fails.

    Args:
        target: The file.
        checksum: Whether to store a checksum beside it, by which :func:`~embedding_adaptation.checksums.check_intact` detects damage.

    Raises:
        DiskFullError: If the disk is full.
    """
    with _naming_full_disks(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_work_prefix(target), dir=target.parent)
        os.close(handle)
        work = Path(name)
        try:
            yield work
            work.chmod(0o644)
            _write_checksum(target, work, wanted=checksum)
            work.replace(target)
        except BaseException:
            work.unlink(missing_ok=True)
            raise


@contextmanager
def replacing_folder(target: Path, *, checksum: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target`` that replaces it if the block succeeds, and is deleted if it fails.

    Args:
        target: The folder.
        checksum: Whether to store checksums of its files beside it.

    Raises:
        DiskFullError: If the disk is full.
    """
    with _naming_full_disks(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=_work_prefix(target), dir=target.parent))
        try:
            yield work
            work.chmod(0o755)
            _write_checksum(target, work, wanted=checksum)
            _put_in_place(work, target)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def _put_in_place(work: Path, target: Path) -> None:
    """Rename a folder, replacing any at ``target``. If another process does the same at the same time, the later one wins."""
    for _ in range(_TRIES):
        try:
            work.rename(target)
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
        else:
            return
        aside = Path(tempfile.mkdtemp(prefix=_work_prefix(target), dir=target.parent))
        try:
            target.rename(aside)
        except FileNotFoundError:
            pass  # the other process has moved it away
        finally:
            shutil.rmtree(aside)
    msg = f"{target} could not be replaced because other processes keep writing it; end them and run the same command again"
    raise OSError(msg)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that nobody finds it in part; of a killed process, :func:`clean_leftovers` removes the rest.

    Args:
        folder: The folder.
    """
    aside = Path(tempfile.mkdtemp(prefix=_work_prefix(folder), dir=folder.parent))
    folder.rename(aside / folder.name)
    shutil.rmtree(aside)


def scratch_prefix() -> str:
    """Prefix for the names of temporary folders, from which :func:`clean_leftovers` can tell which process owned them."""
    return f"{_SCRATCH}.{_HOST}.{os.getpid()}-"


def clean_leftovers(folder: Path, *, deep: bool = True) -> int:
    """Remove unfinished files and folders of processes that were killed on this machine.

    Args:
        folder: Where to look.
        deep: Whether to look into its subfolders, too.

    Returns:
        The number of files and folders removed.
    """
    count = 0
    for parent, folders, files in os.walk(folder):
        leftovers = [name for name in [*folders, *files] if _is_leftover(name)]
        for name in leftovers:
            path = Path(parent) / name
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        count += len(leftovers)
        if leftovers and not any(Path(parent).iterdir()) and Path(parent) != folder:
            Path(parent).rmdir()  # a version that was never finished
        folders[:] = [name for name in folders if deep and name not in leftovers]
    return count


def is_full_disk(error: BaseException) -> bool:
    """Whether an error was caused by a full disk, even if a library has wrapped it in an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if (isinstance(cause, OSError) and cause.errno in _FULL) or _FULL_TEXT.search(str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def full_disk_message(target: Path) -> str:
    """The message for a full disk, with the remedy."""
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    usage = shutil.disk_usage(folder)
    return (
        f"No space left on the disk of {folder} ({usage.free / _MB:,.0f} of {usage.total / _MB:,.0f} MB free): "
        f"{target.name} could not be written; free some space and run the same command again, finished work is kept"
    )


@contextmanager
def _naming_full_disks(target: Path) -> Iterator[None]:
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if is_full_disk(error):
            raise DiskFullError(full_disk_message(target)) from error
        raise


def _work_prefix(target: Path) -> str:
    # The name identifies the writing process, so that another run can tell a leftover from work in progress.
    return f".{target.name}.{_HOST}.{os.getpid()}-"


def _write_checksum(target: Path, content: Path, *, wanted: bool) -> None:
    """Write the checksum before the content is in place, so that a killed process never leaves content without its checksum."""
    if not wanted:
        return
    with replacing_file(checksum_file(target)) as work:
        work.write_text(checksum_lines(content, target.name), encoding="utf-8")


def _is_leftover(name: str) -> bool:
    owner = _WORK_NAME.match(name)
    if owner is None or owner["host"] != _HOST:
        return False
    try:
        os.kill(int(owner["process"]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's process
        return False
    return False
