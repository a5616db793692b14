"""All benchmarks that take minutes, and one table of them: python benchmarks/everything.py [--only NAME ...] [--save FOLDER].

Each runs in a process of its own, one after the other. FOLDER (build/benchmarks) then holds ``benchmarks.json`` and ``benchmarks.md``: the
machine, each benchmark's figures, and its goals with met, missed or not measured. A benchmark that fails or takes too long is named and the
others go on; those run by ``--only`` replace their part of an earlier table.

    python benchmarks/everything.py --compare A.json B.json ...

prints the goals of several machines side by side.

llama.cpp is compared where ``llama-cpp-python`` is installed, sentence-transformers' 8-bit back end where ``INT8_PYTHON`` names an
interpreter that has ``sentence-transformers[openvino]`` (see ``encode.py``).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from embedding_adaptation.openmp import wait_briefly

PROJECT = Path(__file__).parents[1]
_SAMPLE = "data/01_raw/hard_labelled_texts.csv"
_PACKAGES = ("torch", "transformers", "sentence-transformers", "scikit-learn", "mteb", "mlflow", "llama-cpp-python", "openvino")


@dataclass(frozen=True)
class Goal:
    """A bound for a figure of a benchmark.

    Attributes:
        key: The figure's name in the benchmark's last line.
        bound: The bound.
        most: Whether it is an upper bound.
        without_bfloat16: Whether it is meant for processors whose bfloat16 products are no faster than those in float32, or (False) for the
            others; ``None``: for all.
    """

    key: str
    bound: float
    most: bool = False
    without_bfloat16: bool | None = None

    def judged(self, value: float | None) -> str:
        """``met``, ``missed`` or ``not measured``."""
        if value is None:
            return "not measured"
        return "met" if (value <= self.bound if self.most else value >= self.bound) else "missed"


@dataclass(frozen=True)
class Benchmark:
    """A script with its arguments, the longest it may take, and its goals."""

    name: str
    arguments: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    seconds: float = 400.0
    script: str = field(default="")

    @property
    def command(self) -> list[str]:
        """What to run."""
        return [sys.executable, f"benchmarks/{self.script or self.name}.py", *self.arguments]


BENCHMARKS = (
    Benchmark("startup", (), (Goal("registry_s", 2.0, most=True),)),
    Benchmark(
        "chain",
        (),
        (
            Goal("seconds_first", 300, most=True, without_bfloat16=False),
            Goal("seconds_first", 360, most=True, without_bfloat16=True),
            Goal("seconds_again", 15, most=True),
        ),
        seconds=1200,
    ),
    Benchmark(
        "encode",
        ("--texts", _SAMPLE, "--limit", "100", "--repeats", "2"),
        (
            Goal("ratio_published_own_dtype", 6.0, without_bfloat16=False),
            Goal("ratio_published_own_dtype", 8.0, without_bfloat16=True),
            Goal("ratio_own_float32", 1.8, without_bfloat16=True),
            Goal("ratio_sentence_transformers_float32", 2.5, without_bfloat16=True),
            Goal("ratio_sentence_transformers_int8", 1.2),
            Goal("ratio_llama_cpp", 1.2),
            Goal("lowest_cosine_float32", 0.998),
        ),
        seconds=900,
    ),
    Benchmark("augment", ("--count", "32", "--repeats", "1")),
    Benchmark(
        "train",
        ("--repeats", "1"),
        (Goal("ratio_published", 4.0), Goal("ratio_cached_mnrl_upper_half", 3.0), Goal("peak_memory_gb", 4.0, most=True)),
    ),
    Benchmark("evaluate", ("--texts", _SAMPLE, "--limit", "100", "--repeats", "1", "--strategies", "6")),
    Benchmark("grid", ("--texts", _SAMPLE, "--limit", "50", "--repeats", "1", "--check", "4")),
    Benchmark("attention", ("--texts", _SAMPLE, "--limit", "50", "--repeats", "1")),
    Benchmark("memory", ("--count", "20000")),
    Benchmark("scale", ("--texts", "100000")),
    Benchmark("cluster_scale", ("--vectors", "100000")),
    Benchmark("serve", ("--seconds", "12"), (Goal("throughput_ratio_mlflow", 5.0), Goal("errors", 0, most=True))),
    Benchmark(
        "cluster",
        ("--texts", "384", "--block", "32"),
        (Goal("overhead_one_worker", 0.10, most=True), Goal("speedup_two_workers", 1.8)),
    ),
)


def machine() -> dict[str, Any]:
    """The processor, its number formats, memory and the versions of what is compared."""
    import psutil
    import torch

    from embedding_adaptation.embedder.device import cpu_speedups

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "products_against_float32": {name: round(value, 2) for name, value in cpu_speedups().items()},
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": packages,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def last_json(output: str) -> dict[str, Any] | None:
    """The last line of an output, if it is a JSON object."""
    lines = output.strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def measured(benchmark: Benchmark) -> dict[str, Any]:
    """Run a benchmark; its figures, or what went wrong."""
    start = time.perf_counter()
    result: dict[str, Any] = {"command": " ".join(["python", *benchmark.command[1:]])}
    try:
        finished = subprocess.run(
            benchmark.command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=benchmark.seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return result | {"failed": f"not finished after {benchmark.seconds:.0f} s"}
    figures = last_json(finished.stdout)
    result["seconds"] = round(time.perf_counter() - start, 1)
    if finished.returncode or figures is None:
        return result | {"failed": (finished.stderr.strip().splitlines() or ["no JSON in its last line"])[-1][:300]}
    return result | {"figures": figures}


def goals_of(results: dict[str, Any], of_machine: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each goal that is meant for this machine."""
    no_faster = of_machine["products_against_float32"].get("bfloat16", 0.0) <= 1.0
    rows = []
    for benchmark in BENCHMARKS:
        if benchmark.name not in results:
            continue
        figures = results[benchmark.name].get("figures", {})
        for goal in benchmark.goals:
            if goal.without_bfloat16 is None or goal.without_bfloat16 is no_faster:
                value = figures.get(goal.key)
                bound = f"{'at most' if goal.most else 'at least'} {goal.bound:g}"
                rows.append({"benchmark": benchmark.name, "figure": goal.key, "value": value, "goal": bound, "verdict": goal.judged(value)})
    return rows


def markdown(document: dict[str, Any]) -> str:
    """The document as a page of tables."""
    about = document["machine"]
    products = ", ".join(f"{name} x{value:g}" for name, value in about["products_against_float32"].items())
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    lines = [
        "# Benchmarks",
        "",
        f"{about['processor']}, {about['cores']} cores, {about['memory_gb']:g} GB, {about['device']}; products against float32: {products};"
        f" load before: {about['load_before']}; {document['date']}; Python {about['python']}, {versions}.",
        "",
        "| benchmark | figure | value | goal | |",
        "|---|---|---|---|---|",
        *(_row(row) for row in document["goals"]),
        "",
        "| benchmark | seconds | figures |",
        "|---|---|---|",
    ]
    for name, result in document["results"].items():
        figures = result.get("figures", {})
        flat = ", ".join(f"`{key}` {_shown(value)}" for key, value in figures.items() if isinstance(value, int | float | str))
        lines.append(f"| {name} | {result.get('seconds', '')} | {flat or 'failed: ' + result.get('failed', '')} |")
    lines += ["", "```bash", *(result["command"] for result in document["results"].values()), "```", ""]
    return "\n".join(lines)


def _row(goal: dict[str, Any]) -> str:
    return f"| {goal['benchmark']} | `{goal['figure']}` | {_shown(goal['value'])} | {goal['goal']} | {goal['verdict']} |"


def compared(documents: list[dict[str, Any]]) -> str:
    """The goals of several machines side by side."""
    titles = [f"{one['machine']['processor']}, {one['machine']['cores']} cores" for one in documents]
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for number, document in enumerate(documents):
        for row in document["goals"]:
            shown = "" if row["value"] is None else f"{_shown(row['value'])} ({row['goal']}: {row['verdict']})"
            cells.setdefault((row["benchmark"], row["figure"]), {})[number] = shown
    lines = [f"| benchmark | figure | {' | '.join(titles)} |", "|---|---|" + "---|" * len(titles)]
    for (name, figure), of_machines in cells.items():
        lines.append(f"| {name} | `{figure}` | " + " | ".join(of_machines.get(number, "") for number in range(len(documents))) + " |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run what was asked for, and write the table after each, so that an interrupted run leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[benchmark.name for benchmark in BENCHMARKS], help="these alone")
    parser.add_argument("--save", type=Path, default=PROJECT / "build/benchmarks", metavar="FOLDER")
    parser.add_argument("--compare", nargs="+", type=Path, metavar="JSON", help="print the goals of several machines, run nothing")
    arguments = parser.parse_args()
    wait_briefly()  # as kedro run does; each benchmark inherits it
    if arguments.compare:
        print(compared([json.loads(path.read_text(encoding="utf-8")) for path in arguments.compare]))
        return
    target = arguments.save / "benchmarks.json"
    arguments.save.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(target.read_text(encoding="utf-8")) if arguments.only and target.exists() else {}
    results, about = earlier.get("results", {}), machine()
    if earlier and earlier["machine"]["processor"] != about["processor"]:
        parser.error(f"{target} is of another processor; give another folder by --save")
    for benchmark in BENCHMARKS:
        if arguments.only and benchmark.name not in arguments.only:
            continue
        print(f"{benchmark.name} ...", end=" ", flush=True)
        results[benchmark.name] = measured(benchmark)
        print(results[benchmark.name].get("failed") or f"{results[benchmark.name]['seconds']} s", flush=True)
        today = dt.datetime.now(tz=dt.UTC).date().isoformat()
        document = {"date": today, "machine": about, "goals": goals_of(results, about), "results": results}
        target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        target.with_suffix(".md").write_text(markdown(document), encoding="utf-8")
    print(f"\n{target.with_suffix('.md')}")
    print(json.dumps({name: sum(row["verdict"] == name for row in document["goals"]) for name in ("met", "missed", "not measured")}))


if __name__ == "__main__":
    main()
