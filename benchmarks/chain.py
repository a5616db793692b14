"""What a newcomer waits for: python benchmarks/chain.py [--pipelines __default__].

``kedro run`` in a fresh copy of the project, on the bundled sample: once with nothing computed, and again with nothing changed. Both come
with the seconds of the longest nodes; installation is not part of it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
_SHOWN = 8


def copied(folder: Path) -> Path:
    """The project without anything that runs made."""
    for name in ("src", "conf", "pyproject.toml"):
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, folder / name)
    shutil.copytree(PROJECT / "data/01_raw", folder / "data/01_raw")
    return folder


def run(folder: Path, pipelines: str) -> tuple[float, dict[str, float]]:
    """Seconds of a run, and those of the longest nodes.

    Raises:
        SystemExit: If it fails.
    """
    timings = folder / "data/node_seconds.json"
    timings.unlink(missing_ok=True)
    command = [Path(sys.executable).with_name("kedro"), "run", f"--pipelines={pipelines}"]
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "TQDM_DISABLE": "1"}
    start = time.perf_counter()
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if finished.returncode:
        sys.exit(finished.stdout[-3000:] + finished.stderr[-3000:])
    nodes = json.loads(timings.read_text(encoding="utf-8"))
    return seconds, dict(sorted(nodes.items(), key=lambda item: -item[1])[:_SHOWN])


def main() -> None:
    """Run twice and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", default="__default__")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = copied(Path(scratch))
        first, nodes = run(folder, arguments.pipelines)
        again, repeated = run(folder, arguments.pipelines)
    for title, seconds, longest in (("first run", first, nodes), ("nothing changed", again, repeated)):
        print(f"{title}: {seconds:.1f} s; " + ", ".join(f"{name} {value:.1f}" for name, value in longest.items()))
    print(json.dumps({"seconds_first": round(first, 1), "seconds_again": round(again, 1), "nodes": nodes}))


if __name__ == "__main__":
    main()
