"""``python -m embedding_adaptation``: what ``kedro run`` is in the project, for the installed package.

Configuration is taken from ``conf/`` in the current folder, or from ``--conf-source``; other relative paths start in the current folder.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run pipelines; takes what ``kedro run`` takes."""
    package = __package__ or ""
    os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")  # what .telemetry says in the project, which is not packaged
    configure_project(package)
    kwargs.setdefault("standalone_mode", not hasattr(sys, "ps1"))
    return find_run_command(package)(*args, **kwargs)


if __name__ == "__main__":
    main()
