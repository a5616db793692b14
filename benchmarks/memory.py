"""Peak memory of embedding 2,000 and 200,000 short texts into shards: python benchmarks/memory.py [--texts FILE] [--count 200000].

Each count is embedded in a process of its own, with one layer of the default model: memory does not depend on the number of layers, and
time does. The texts are lines of the file, numbered so that all differ.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from _workload import ONE_WORD, PROJECT, default_weights

SMALL = 2_000


def embed(source: Path, count: int) -> None:
    """Embed and print the process's peak memory in MB."""
    from embedding_adaptation import Embedder, Strategy

    lines = source.read_text(encoding="utf-8").splitlines()
    embedder = Embedder.load(default_weights())
    strategy = Strategy("first_layer", ONE_WORD, "last", (1,))
    with tempfile.TemporaryDirectory() as folder:
        texts = (f"{number} {' '.join(lines[number % len(lines)].split()[:8])}" for number in range(count))
        shards = embedder.encode_to_shards(texts, folder, strategy, progress=False)
        written = sum(path.stat().st_size for path in shards) / 1e6
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "written_mb": written}))


def main() -> None:
    """Compare the two counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=PROJECT / "data/01_raw/hard_corpus.txt")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        embed(arguments.texts, arguments.only)
        return
    results = {}
    for count in (SMALL, arguments.count):
        command = [sys.executable, __file__, "--texts", str(arguments.texts), "--only", str(count)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[count] = json.loads(output.splitlines()[-1])
        print(f"{count:>9,} texts: peak {results[count]['peak_mb']:,.0f} MB, {results[count]['written_mb']:,.1f} MB written", flush=True)
    print(json.dumps({"difference_mb": round(results[arguments.count]["peak_mb"] - results[SMALL]["peak_mb"], 1), **results}))


if __name__ == "__main__":
    main()
