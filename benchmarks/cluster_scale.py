"""Memory and speed of clustering very many vectors: python benchmarks/cluster_scale.py [--vectors 1000000] [--dimensions 384].

Synthetic vectors in groups of unequal size are written to a file, then clustered in a process of its own as text_clustering does: the
curve of stability, mini-batch k-means, assignments with distances as a table with texts, sizes, nearest texts and distinctive words.
Peak memory is that process's, libraries included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from embedding_adaptation.texts.stream import TextStream
from embedding_adaptation.vectors.store import VectorStore

GROUPS = 50
PIECE = 20_000
SPREAD = 1.2  # length of the noise beside a group's unit vector: cosines of 0.4 within a group


def groups_of(start: int, count: int) -> np.ndarray:
    """The groups of some vectors, a few of which are large."""
    return (GROUPS * np.random.default_rng([1, start]).random(count) ** 2).astype(np.int32)


def write_vectors(file: Path, count: int, dimensions: int) -> None:
    """Write synthetic vectors, a piece at a time."""
    centres = np.random.default_rng(0).normal(size=(GROUPS, dimensions)) / np.sqrt(dimensions)
    matrix = np.lib.format.open_memmap(file, "w+", np.float32, (count, dimensions))
    for start in range(0, count, PIECE):
        rows = min(PIECE, count - start)
        noise = np.random.default_rng([2, start]).normal(size=(rows, dimensions)) / np.sqrt(dimensions)
        matrix[start : start + rows] = centres[groups_of(start, PIECE)[:rows]] + SPREAD * noise


def synthetic_texts(count: int) -> TextStream:
    """Texts that name their group."""

    def pieces() -> Iterator[pd.DataFrame]:
        for start in range(0, count, PIECE):
            groups = groups_of(start, PIECE)[: count - start].tolist()
            texts = [f"the text {start + row} is one of the group{chr(97 + g % 26)}{chr(97 + g // 26)}" for row, g in enumerate(groups)]
            yield pd.DataFrame({"id": [str(start + row) for row in range(len(texts))], "text": texts}, dtype=str)

    return TextStream(pieces)


def measure(folder: Path, count: int) -> None:
    """Cluster the vectors in this process and print time and memory."""
    import yaml
    from sklearn.metrics import adjusted_rand_score

    from embedding_adaptation.pipelines.text_clustering import nodes
    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions

    settings = yaml.safe_load((Path(__file__).parents[1] / "conf/base/parameters/text_clustering.yml").read_text())["text_clustering"]
    settings |= {"seed": 0, "stability": {"candidates": [10, 20, GROUPS], "pairs": 3}}
    options = TextClusteringOptions.model_validate(settings)
    vectors = VectorStore.of_files([folder / "vectors.npy"])
    texts = synthetic_texts(count)
    seconds = {}
    start = time.perf_counter()
    clusters, _ = nodes.cluster_texts(texts, vectors, options)
    seconds["cluster"] = time.perf_counter() - start
    start = time.perf_counter()
    profiles = nodes.describe_clusters(texts, clusters, options)
    names = profiles["words"].map(lambda words: ", ".join(words[:3]))
    nodes.list_assignments(texts, clusters, profiles.assign(name=names)).write_parquet(folder / "assignments.parquet")
    seconds["describe"] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    true = np.concatenate([groups_of(first, PIECE)[: count - first] for first in range(0, count, PIECE)])
    agreement = adjusted_rand_score(true, clusters.labels)
    found = {"clusters": len(clusters.centres), "adjusted_rand": round(agreement, 4), "peak_mb": round(peak, 1)}
    print(json.dumps(found | {f"{name}_s": round(value, 1) for name, value in seconds.items()}))


def main() -> None:
    """Write the vectors and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        measure(arguments.folder, arguments.vectors)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(Path(folder) / "vectors.npy", arguments.vectors, arguments.dimensions)
        size = (Path(folder) / "vectors.npy").stat().st_size / 1024**2
        command = [sys.executable, __file__, "--vectors", str(arguments.vectors), "--folder", folder]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    print(
        f"{arguments.vectors:,} x {arguments.dimensions} vectors ({size:,.0f} MB on disk): {found['clusters']} clusters in "
        f"{found['cluster_s']:,.1f} s, described and listed in {found['describe_s']:,.1f} s; peak memory {found['peak_mb']:,.0f} MB; "
        f"adjusted Rand index against the true groups {found['adjusted_rand']:.3f}"
    )
    print(json.dumps({"vectors": arguments.vectors, "dimensions": arguments.dimensions, "file_mb": round(size, 1), **found}))


if __name__ == "__main__":
    main()
