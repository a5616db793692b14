from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from embedding_adaptation.embedder.freed_memory import keep_freed_memory
{call}
def layer():
    blocks = [torch.ones(2 * 2**20, dtype=torch.uint8) for _ in range(12)]
for _ in range(3):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call):
    done = subprocess.run([sys.executable, "-c", CODE.format(call=call)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have limits of their own")
def test_a_pass_finds_the_pages_that_the_last_one_freed():
    assert faults("keep_freed_memory()") < 1_000 < faults("")
