"""Relative paths in options start at the project's root, whatever the current directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext

# An environment variable, so that the worker processes of a run (of ParallelRunner or torchrun) follow the same rule.
_ROOT = "EMBEDDING_ADAPTATION_PROJECT"


def set_project_root(root: str | Path) -> None:
    """Set the root of relative paths for this process and those it starts."""
    os.environ[_ROOT] = str(Path(root).absolute())


def project_root() -> Path:
    """The root of the project whose session was opened last, or else of the project that contains the current directory.

    Outside a project it is the current directory itself.
    """
    root = os.environ.get(_ROOT)
    if root and Path(root).is_dir():
        return Path(root)
    from kedro.utils import find_kedro_project

    current = Path.cwd()
    return Path(find_kedro_project(current) or current)


def project_path(path: str | Path) -> Path:
    """Resolve a path from an option: ``~`` is the home folder, and a relative path starts at the project's root."""
    return project_root() / os.path.expanduser(path)  # noqa: PTH111  pathlib's fails for an unknown user


def output_folder(context: KedroContext) -> Path:
    """The folder of everything that runs write, as the catalog resolves the global ``output``: ``~`` is the home folder."""
    return Path(context.project_path) / os.path.expanduser(str(context.config_loader["globals"]["output"]))  # noqa: PTH111
