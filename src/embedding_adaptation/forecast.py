"""How long work will take, told from the part of it that has been measured."""

from __future__ import annotations

MEASURED = 2.0  # seconds of work from which its speed can be told
WORTH_SAYING = 5.0  # seconds


def looks(steps: int, every: int) -> int:
    """How often training looks at its criteria: before the first step, and after every so many steps and the last one."""
    return 1 + -(-steps // every)


def seconds_left(done: float, total: float, seconds: float) -> float | None:
    """Seconds until the rest of some work is done, if it goes on as it has; ``None`` if that is not worth saying, or not known yet.

    Args:
        done: How much is done, in any unit.
        total: All of it, in the same unit.
        seconds: What was needed so far.
    """
    if done <= 0 or seconds < MEASURED:
        return None
    left = seconds * max(0.0, total - done) / done
    return left if left >= WORTH_SAYING else None
