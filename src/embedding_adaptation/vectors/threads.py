"""How many threads the libraries behind NumPy and scikit-learn use.

k-means alternates matrix products of NumPy's BLAS with OpenMP loops of scikit-learn, step after step. The threads of each library spin
while the other works, and on small batches they wait for one another longer than they compute: one thread is then several times as fast,
on a busy machine by an order of magnitude.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np  # noqa: F401  a library's threads are found only once it is loaded
import sklearn.cluster  # noqa: F401
from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

# Numbers [N x D] from which a pass over all vectors is worth sharing among OpenMP's threads.
_WORTH_SHARING = 1 << 23


@contextmanager
def one_thread() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Limit BLAS and OpenMP to one thread until the block ends; clusters do not depend on it.

    Yields:
        A block within which the limit does not hold, for what gains from threads.
    """
    limit = _threads().limit(limits=1)

    @contextmanager
    def lifted() -> Iterator[None]:
        limit.restore_original_limits()
        try:
            yield
        finally:
            _threads().limit(limits=1)

    try:
        yield lifted
    finally:
        limit.restore_original_limits()


@contextmanager
def threads_of_passes(numbers: int) -> Iterator[None]:
    """Limit BLAS to one thread, and OpenMP, too, unless the passes over the vectors are long.

    Args:
        numbers: Size of the matrix that each pass reads, N times D.
    """
    with _threads().limit(limits=1, user_api="blas" if numbers >= _WORTH_SHARING else None):
        yield


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()
