"""Time Kedro takes to register the pipelines, and the heavy modules that this imports: python benchmarks/startup.py.

The last line is JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "mteb",
    "mlflow",
    "peft",
    "datasets",
    "sklearn",
    "matplotlib",
    "plotly",
    "pandas",
)
LOADED = """
import sys
from kedro.framework.project import pipelines, settings
from kedro.framework.startup import bootstrap_project
bootstrap_project(sys.argv[1])
print(f"{len(dict(pipelines))} pipelines, {len(settings.HOOKS)} hooks; heavy modules imported:", end=" ")
print(", ".join(name for name in sys.argv[2].split(",") if name in sys.modules) or "none")
"""


def main() -> None:
    """Time the command as a user types it, and inspect a process that runs it."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run([Path(sys.executable).with_name("kedro"), "registry", "list"], cwd=PROJECT, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    print(f"kedro registry list: median {statistics.median(times[1:]):.2f} s of {len(times) - 1}, first {times[0]:.2f} s")
    command = [sys.executable, "-c", LOADED, str(PROJECT), ",".join(HEAVY)]
    result = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    found = result.stdout.splitlines()[-1]
    print(found)
    median = statistics.median(times[1:])
    print(json.dumps({"registry_s": round(median, 2), "first_s": round(times[0], 2), "heavy": found.partition("imported: ")[2]}))


if __name__ == "__main__":
    main()
