"""Checksums that detect files and folders that are no longer what was written.

A checksum file is hidden beside its target (``.NAME.xxh128``) and has the format of ``xxh128sum``: digest, two spaces, name. XXH128 detects
accidental damage at memory speed; it does not protect against deliberate tampering.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import xxhash

CHECKSUM = ".xxh128"
_checked: dict[Path, tuple[tuple[str, int, int, int], ...]] = {}


class DamagedError(ValueError):
    """A file that is no longer what was written; the message names it."""


def checksum_file(target: Path) -> Path:
    """The checksum file of a file or folder."""
    return target.with_name(f".{target.name}{CHECKSUM}")


def checksum_lines(content: Path, name: str) -> str:
    """The contents of the checksum file for a file, or for every file in a folder.

    Args:
        content: The file or folder.
        name: The name to record for it.
    """
    files = sorted(path for path in content.rglob("*") if path.is_file()) if content.is_dir() else [content]
    names = [f"{name}/{path.relative_to(content).as_posix()}" if content.is_dir() else name for path in files]
    lines = [f"{_digest(path)}  {title}\n" for path, title in zip(files, names, strict=True)]
    return "".join(lines) + _end(len(lines))


def content_lines(target: Path) -> str:
    """The checksums of a file or folder as recorded beside it, or else computed: equal for equal contents under the same name."""
    listing = checksum_file(target)
    return listing.read_text(encoding="utf-8") if listing.is_file() else checksum_lines(target, target.name)


def check_intact(target: Path) -> None:
    """Compare a file or folder with its checksum; without a checksum it passes. Unchanged files are read only once per process.

    Raises:
        DamagedError: If it is no longer what was written.
    """
    listing = checksum_file(target)
    if not listing.is_file():
        return
    digests = _recorded_digests(listing, target)
    try:
        state = tuple(_file_state(listing.parent / name) for name in digests)
    except OSError as error:
        msg = f"{target} is damaged: {error.filename} is missing"
        raise DamagedError(msg) from error
    if _checked.get(target) == state:
        return
    for name, digest in digests.items():
        if _digest(listing.parent / name) != digest:
            msg = f"{listing.parent / name} is damaged: it is not what was written"
            raise DamagedError(msg)
    _checked[target] = state


def is_intact(target: Path) -> bool:
    """Whether a file or folder has a checksum and matches it."""
    try:
        check_intact(target)
    except DamagedError:
        return False
    return checksum_file(target).is_file()


def _recorded_digests(listing: Path, target: Path) -> dict[str, str]:
    """Digests by name."""
    lines = listing.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    pairs = [line.rstrip("\n").partition("  ") for line in lines[:-1]]
    digests = {name: digest for digest, _, name in pairs}
    if not lines or lines[-1] != _end(len(digests)) or any(name.partition("/")[0] != target.name for name in digests):
        msg = f"{listing} is damaged, so {target.name} cannot be verified"
        raise DamagedError(msg)
    return digests


def _end(count: int) -> str:
    return f"# {count} in all\n"


def _file_state(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return str(hashlib.file_digest(content, xxhash.xxh3_128).hexdigest())
