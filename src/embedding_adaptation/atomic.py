"""Files and folders that are there in full or not at all, and whose contents are known to be what was written."""

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

# A container may have the machine's name, and numbers of its own for processes.
_NAMESPACE = Path("/proc/self/ns/pid")
_NUMBERS = re.sub(r"\D", "", str(_NAMESPACE.readlink())) if _NAMESPACE.is_symlink() else ""
_HOST = (re.sub(r"[^A-Za-z0-9]", "_", platform.node())[:32] or "host") + (f"_{_NUMBERS}" if _NUMBERS else "")
_WORK_NAME = re.compile(r"^(?:\.|embedding-adaptation)(?P<name>.*)\.(?P<host>\w+)\.(?P<process>\d+)-\w{8}$")
_SCRATCH = "embedding-adaptation"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_TEXT = re.compile(r"no space left on device|os error 28\b|errno 28\b|quota exceeded", re.IGNORECASE)
_MB = 1 << 20
# What a system says where a folder that is not empty is at the place of another.
_OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST}
_TRIES = 100


class DiskFullError(OSError):
    """A disk without space; the message names it and says what to do."""


@contextmanager
def replacing_file(target: Path, *, checksum: bool = False) -> Iterator[Path]:
    """A temporary file beside ``target`` that takes its place when the block ends well, and vanishes when it does not.

    Args:
        target: The file.
        checksum: Whether to keep a checksum beside it, by which :func:`~embedding_adaptation.checksums.check_intact` recognises damage.

    Raises:
        DiskFullError: If there is no space for it.
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
    """A temporary folder beside ``target`` that takes its place when the block ends well, and vanishes when it does not.

    Args:
        target: The folder.
        checksum: Whether to keep checksums of its files beside it.

    Raises:
        DiskFullError: If there is no space for it.
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
    """Rename a folder, and remove what was there. Another process may do the same at the same time: the later one's stays."""
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
            pass  # the other has put it aside
        finally:
            shutil.rmtree(aside)
    msg = f"{target} could not be replaced: other processes write it all the time; end them, and give the same command again"
    raise OSError(msg)


def scratch_prefix() -> str:
    """How the name of a temporary folder begins, so that :func:`clean_leftovers` can tell whose it was."""
    return f"{_SCRATCH}.{_HOST}.{os.getpid()}-"


def clean_leftovers(folder: Path, *, deep: bool = True) -> int:
    """Remove what killed processes of this machine were writing when they ended.

    Args:
        folder: Where to look.
        deep: Whether to look into folders below it too.

    Returns:
        How many files and folders were removed.
    """
    count = 0
    for place, folders, files in os.walk(folder):
        left = [name for name in [*folders, *files] if _is_leftover(name)]
        for name in left:
            path = Path(place) / name
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        count += len(left)
        if left and not any(Path(place).iterdir()) and Path(place) != folder:
            Path(place).rmdir()  # the version that was never finished
        folders[:] = [name for name in folders if deep and name not in left]
    return count


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, or one that it came from, is a disk without space; libraries wrap it in errors of their own."""
    seen: BaseException | None = error
    while seen is not None:
        if (isinstance(seen, OSError) and seen.errno in _FULL) or _FULL_TEXT.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def full_disk_message(target: Path) -> str:
    """One sentence about a disk that is full, and the way out."""
    place = next(parent for parent in target.absolute().parents if parent.exists())
    usage = shutil.disk_usage(place)
    return (
        f"No space left on the disk of {place} ({usage.free / _MB:,.0f} of {usage.total / _MB:,.0f} MB are free): "
        f"{target.name} could not be written; make space and give the same command again, what was finished before is kept"
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
    # Who writes it is in its name, so that another run can tell a leftover from work in progress.
    return f".{target.name}.{_HOST}.{os.getpid()}-"


def _write_checksum(target: Path, content: Path, *, wanted: bool) -> None:
    """Write it before the content is in place: a process that is killed in between leaves no content without its checksum."""
    if not wanted:
        return
    with replacing_file(checksum_file(target)) as work:
        work.write_text(checksum_lines(content, target.name), encoding="utf-8")


def _is_leftover(name: str) -> bool:
    found = _WORK_NAME.match(name)
    if found is None or found["host"] != _HOST:
        return False
    try:
        os.kill(int(found["process"]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False
