"""How long the threads of OpenMP spin while they wait for one another.

GNU's OpenMP, which torch and scikit-learn bring along, lets a thread that waits spin for milliseconds. Where another program uses the same
cores, the spinning thread has the time that the one it waits for would need: on two cores beside one busy process, the default model
read at a tenth of its speed. A thousand turns bridge the gaps between operations; after them a thread sleeps.
"""

from __future__ import annotations

import os

TURNS = "1000"
# What a user may have set: then that holds.
_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly() -> None:
    """Let waiting threads sleep soon; to be called before a library with OpenMP is loaded, and inherited by processes that are started."""
    if not any(name in os.environ for name in _VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = TURNS
