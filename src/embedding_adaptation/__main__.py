"""``python -m embedding_adaptation``: the equivalent of ``kedro run`` for the installed package.

Configuration comes from ``conf/`` in the current folder or from ``--conf-source``; other relative paths start at the current folder.
Started by ``torchrun``, all processes share the run's training: see :mod:`.pipelines.contrastive_finetuning.launch`.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run pipelines; accepts the arguments of ``kedro run``."""
    package = __package__ or ""
    os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")  # as the project's .telemetry says, which is not packaged
    configure_project(package)
    kwargs.setdefault("standalone_mode", not hasattr(sys, "ps1"))
    run = partial(find_run_command(package), *args, **kwargs)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        # By name: nothing refers to a pipeline's modules, except itself.
        devices = import_module(f"{package}.pipelines.contrastive_finetuning.devices")
        return devices.share_run(run)
    return run()


if __name__ == "__main__":
    main()
