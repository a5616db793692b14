"""A server of its own process, for the tests of serving."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager


@contextmanager
def running(folder, *arguments: str, **environment: str):
    """A server of a folder: its process, its address, and a list that its log goes to line by line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "embedding_adaptation.serving", "--model", str(folder), "--port", "0", "--device", "cpu", *arguments],
        stderr=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip
    log: list[str] = []
    found, reader = threading.Event(), None

    def read() -> None:
        for line in process.stderr:
            log.append(line)
            if "running on http" in line:
                found.set()
        found.set()

    try:
        reader = threading.Thread(target=read)
        reader.start()
        assert found.wait(60)
        addresses = re.findall(r"running on (http://[\d.:]+)", "".join(log))
        assert addresses, "".join(log)
        yield process, addresses[0], log
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()
