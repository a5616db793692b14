"""Checksums beside files and folders that are read again: a file that is no longer what was written is recognised.

A checksum file is hidden, lies beside what it is of (``.NAME.xxh128``), and has the lines of ``xxh128sum``: a digest, two blanks, a name.
XXH128 finds every kind of damage at the speed of memory; it is no protection against somebody who means harm.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import xxhash

CHECKSUM = ".xxh128"
_checked: dict[Path, tuple[tuple[str, int, int, int], ...]] = {}


class DamagedError(ValueError):
    """A file that is not what was written; the message names it."""


def checksum_file(target: Path) -> Path:
    """Where the checksum of a file or folder lies."""
    return target.with_name(f".{target.name}{CHECKSUM}")


def checksum_lines(content: Path, name: str) -> str:
    """What a checksum file says of a file, or of every file in a folder.

    Args:
        content: The file or folder.
        name: What it is to be called.
    """
    files = sorted(path for path in content.rglob("*") if path.is_file()) if content.is_dir() else [content]
    names = [f"{name}/{path.relative_to(content).as_posix()}" if content.is_dir() else name for path in files]
    lines = [f"{_digest(path)}  {title}\n" for path, title in zip(files, names, strict=True)]
    return "".join(lines) + _end(len(lines))


def check_intact(target: Path) -> None:
    """Compare a file or folder with its checksum; one without a checksum passes. What did not change is read once a process.

    Raises:
        DamagedError: If it is not what was written.
    """
    listing = checksum_file(target)
    if not listing.is_file():
        return
    wanted = _wanted(listing, target)
    try:
        seen = tuple(_look(listing.parent / name) for name in wanted)
    except OSError as error:
        msg = f"{target} is damaged: {error.filename} is missing"
        raise DamagedError(msg) from error
    if _checked.get(target) == seen:
        return
    for name, digest in wanted.items():
        if _digest(listing.parent / name) != digest:
            msg = f"{listing.parent / name} is damaged: it is not what was written"
            raise DamagedError(msg)
    _checked[target] = seen


def is_intact(target: Path) -> bool:
    """Whether a file or folder has a checksum and agrees with it."""
    try:
        check_intact(target)
    except DamagedError:
        return False
    return checksum_file(target).is_file()


def _wanted(listing: Path, target: Path) -> dict[str, str]:
    """Digests by name."""
    lines = listing.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    pairs = [line.rstrip("\n").partition("  ") for line in lines[:-1]]
    wanted = {name: digest for digest, _, name in pairs}
    if not lines or lines[-1] != _end(len(wanted)) or any(name.partition("/")[0] != target.name for name in wanted):
        msg = f"{listing} is damaged, so that {target.name} cannot be told to be whole"
        raise DamagedError(msg)
    return wanted


def _end(count: int) -> str:
    return f"# {count} in all\n"


def _look(path: Path) -> tuple[str, int, int, int]:
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns, state.st_ino


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return str(hashlib.file_digest(content, xxhash.xxh3_128).hexdigest())
