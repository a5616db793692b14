r"""A run whose training is shared by processes that ``torchrun`` has started, on one or several machines that share a folder.

``torchrun -m embedding_adaptation --pipelines=contrastive_finetuning`` starts the same command in every process. The first one runs the
pipelines; the others wait until it comes to training, take their part in it, and end with it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

# Before training, the others wait for the pipelines that come first.
_LONGEST_RUN = timedelta(days=14)
# In training, they wait while the first process judges and mines.
LONGEST_WAIT = timedelta(hours=2)
_VARIABLES = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR",
    "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS",
)  # fmt: skip


@dataclass
class Launch:
    """The processes that ``torchrun`` has started.

    Attributes:
        rank: This process's number, from 0.
        size: Their number.
        store: What they all read and write.
        number: Number of trainings that they have shared.
    """

    rank: int
    size: int
    store: distributed.Store
    number: int = field(default=0)

    def tell(self, folder: Path | None) -> None:
        """Tell the other processes to train the job in a folder, or to end."""
        self.number += 1
        self.store.set(f"job {self.number}", "" if folder is None else str(folder))

    def jobs(self) -> Iterator[Path]:
        """Folders of jobs, each as soon as the first process has told of it, until it ends."""
        for self.number in itertools.count(1):
            self.store.wait([f"job {self.number}"], _LONGEST_RUN)
            told = self.store.get(f"job {self.number}").decode()
            if not told:
                return
            yield Path(told)

    @contextmanager
    def together(self) -> Iterator[None]:
        """One process group, for the job last told of."""
        store = distributed.PrefixStore(f"training {self.number}", self.store)
        distributed.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo", store=store, rank=self.rank, world_size=self.size, timeout=LONGEST_WAIT
        )
        try:
            yield
        finally:
            distributed.destroy_process_group()


_launches: list[Launch] = []


def launch() -> Launch | None:
    """The launch whose first process this is, if any."""
    return _launches[0] if _launches else None


def first_runs(run: Callable[[], Any], take_part: Callable[[Path], None]) -> Any:
    """Run the pipelines in the first process, and let the others take part in their training.

    Args:
        run: Runs the pipelines.
        take_part: Trains the job in a folder, as one process of a group.

    Returns:
        What the first process's run returns; ``None`` in the others.
    """
    # Libraries that find these variables would share their work, too.
    given = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(given["LOCAL_RANK"]))
    is_server = rank == 0 and given.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    common = distributed.TCPStore(given["MASTER_ADDR"], int(given["MASTER_PORT"]), None, is_server, wait_for_workers=False)
    own = Launch(rank, size, distributed.PrefixStore(f"embedding_adaptation {given.get('TORCHELASTIC_RESTART_COUNT', '0')}", common))
    if rank:
        for folder in own.jobs():
            with own.together():
                take_part(folder)
        return None
    _launches.append(own)
    try:
        result = run()
    except SystemExit as end:
        if not end.code:
            own.tell(None)
        raise
    finally:
        _launches.clear()
    own.tell(None)
    return result
