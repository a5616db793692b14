"""One rule for relative paths in options: they start at the project's root, whatever the current directory."""

from __future__ import annotations

import os
from pathlib import Path

# A variable of the environment, so that the processes a run starts (ParallelRunner's workers, torchrun's) follow the same rule.
_ROOT = "EMBEDDING_ADAPTATION_PROJECT"


def set_project_root(root: str | Path) -> None:
    """Say which project relative paths belong to, for this process and those it starts."""
    os.environ[_ROOT] = str(Path(root).absolute())


def project_root() -> Path:
    """The project of the session that was opened last; before any, that of the current directory, which may lie anywhere in it.

    Outside a project it is the current directory.
    """
    told = os.environ.get(_ROOT)
    if told and Path(told).is_dir():
        return Path(told)
    from kedro.utils import find_kedro_project

    here = Path.cwd()
    return Path(find_kedro_project(here) or here)


def project_path(path: str | Path) -> Path:
    """A path as an option means it: ``~`` is the home folder, and a relative path starts at the project's root."""
    return project_root() / os.path.expanduser(path)  # noqa: PTH111  that of pathlib fails where there is no such user
