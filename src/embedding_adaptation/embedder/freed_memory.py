"""Memory that a pass has freed stays for the next one."""

from __future__ import annotations

from functools import cache

import torch

_LARGEST = 32 * 2**20 - 2**16  # bytes; freeing up to 32 MB raises glibc's thresholds (DEFAULT_MMAP_THRESHOLD_MAX)


@cache
def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MB that were freed, once a process.

    Each layer frees several times what it hands on. glibc gives back to the system what is free at the end of its heap, from twice the
    largest block that was ever freed, so that the system has to clear the same pages again for every layer: half a million page faults for
    240 short texts in 8 bits. Freeing one block of nearly 32 MB, the largest that counts, raises that limit to 64 MB. Other C libraries
    have limits of their own.

    References:
        https://man7.org/linux/man-pages/man3/mallopt.3.html, M_MMAP_THRESHOLD: the dynamic threshold.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
