from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import ctypes
import torch
from embedding_adaptation.embedder.freed_memory import keep_freed_memory
NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]
counts = ctypes.CDLL(None).mallinfo2
counts.restype = Counts
{call}
before = counts().hblks
blocks = [torch.ones(30 * 2**20, dtype=torch.uint8) for _ in range(2)]
mapped = counts().hblks - before
del blocks
print(mapped, counts().fordblks >> 20)
"""


def mapped_and_kept(call):
    done = subprocess.run([sys.executable, "-c", CODE.format(call=call)], capture_output=True, text=True, check=True)
    return [int(part) for part in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have limits of their own")
def test_large_blocks_come_from_the_heap_and_stay_there_when_they_are_freed():
    mapped, kept = mapped_and_kept("keep_freed_memory()")
    assert mapped == 0  # none was asked of the system by itself, and given back
    assert kept > 50
    assert mapped_and_kept("")[0] == 2
