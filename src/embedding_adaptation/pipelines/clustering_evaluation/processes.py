"""The same work in several processes, where it is long enough to repay their start."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Job = TypeVar("Job")
Result = TypeVar("Result")

# Another process imports torch and mteb first, which takes seconds and hundreds of megabytes.
_WORTH_SECONDS = 20.0
_MOST_PROCESSES = 8


def spread(function: Callable[[Job], Result], jobs: Sequence[Job], *, worth: float = _WORTH_SECONDS) -> Iterator[Result]:
    """Apply a function to jobs of like length, in order.

    The first two run here. If what is left would take long at the speed of the second, the processor's cores share it, each process with
    one thread. Processes end when all is done, when the caller stops asking, and when this process dies.

    Args:
        function: What to do; it and the jobs must be picklable (by cloudpickle) and depend on no state of this process.
        jobs: The jobs.
        worth: Seconds from which other processes are started.

    Yields:
        Each result, as soon as it and those before it are there. An error is raised here as it was raised there.
    """
    seconds = 0.0
    for done, job in enumerate(jobs):
        processes = min(cpu_count(), len(jobs) - done, _MOST_PROCESSES)
        if done > 1 and processes > 1 and seconds * (len(jobs) - done) > worth:
            yield from _in_processes(function, jobs[done:], processes)
            return
        start = time.perf_counter()
        result = function(job)
        seconds = time.perf_counter() - start
        yield result


def _in_processes(function: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    try:
        with parallel_config("loky", n_jobs=processes, inner_max_num_threads=1):
            # Jobs travel through pipes: as files in a temporary folder, texts could stay behind.
            parallel = Parallel(return_as="generator", batch_size=1, pre_dispatch="2*n_jobs", max_nbytes=None)
            yield from parallel(delayed(function)(job) for job in jobs)
    finally:
        get_reusable_executor().shutdown(wait=True, kill_workers=True)
