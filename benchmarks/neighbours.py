"""Exact and approximate neighbours: python benchmarks/neighbours.py VECTORS.npy ... [--sizes 5000 10000 20000] [--texts 100000].

For vectors from files, the first ``--sizes`` rows are searched both ways: seconds, and the share of neighbours and pairs found. The rate of
the exact search gives the number of vectors for which it takes a minute. ``--texts`` searches that many
mixtures of the last file's vectors, approximately.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np

from embedding_adaptation.vectors.approximate import approximate_bytes, approximate_neighbours
from embedding_adaptation.vectors.neighbours import Search, nearest_neighbours
from embedding_adaptation.vectors.unit import unit_vectors

COUNT, PAIRED = 8, 3
SHARE = 0.7  # of the second vector in a mixed one


def mutual(rows: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of rows that are among each other's nearest."""
    nearest = [set(row[:PAIRED]) for row in rows.tolist()]
    return {(one, other) for one, own in enumerate(nearest) for other in own if one < other and one in nearest[other]}


def compare(title: str, vectors: np.ndarray) -> dict[str, float]:
    """Search both ways."""
    start = time.perf_counter()
    true, _ = nearest_neighbours(vectors, COUNT, Search("exact"))
    exact = time.perf_counter() - start
    start = time.perf_counter()
    found, _ = approximate_neighbours(vectors, COUNT, progress=False)
    approximate = time.perf_counter() - start
    pairs, found_pairs = mutual(true), mutual(found)
    recall = float(np.mean([len(set(one) & set(other)) / COUNT for one, other in zip(found.tolist(), true.tolist(), strict=True)]))
    rate = exact / len(vectors) ** 2
    result = {
        "texts": len(vectors),
        "dimensions": vectors.shape[1],
        "exact_s": round(exact, 2),
        "approximate_s": round(approximate, 2),
        "ns_a_pair": round(rate * 1e9, 1),
        "minute_at": int((60 / rate) ** 0.5),
        "neighbour_recall": round(recall, 4),
        "pair_recall": round(len(pairs & found_pairs) / len(pairs), 4),
        "pair_precision": round(len(pairs & found_pairs) / len(found_pairs), 4),
    }
    print(title, json.dumps(result), flush=True)
    return result


def mixed_vectors(vectors: np.ndarray, count: int) -> np.ndarray:
    """Unit vectors that are as hard to search as given ones: sums of two of them, one at less than its length, made block by block."""
    rng = np.random.default_rng(0)
    mixed = np.empty((count, vectors.shape[1]), np.float32)
    for start in range(0, count, 100_000):
        block = mixed[start : start + 100_000]
        one, other = rng.integers(len(vectors), size=(2, len(block)))
        block[:] = vectors[one]
        block += np.float32(SHARE) * vectors[other]
        unit_vectors(block, out=block)
    return mixed


def peak_bytes() -> int:
    """Largest resident memory of this process since the peak was last cleared (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024


def main() -> None:
    """Compare, and search very many."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 10_000, 20_000])
    parser.add_argument("--texts", type=int, help="mixed vectors to search approximately")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("embedding_adaptation").setLevel(logging.INFO)
    results = []
    for file in arguments.files:
        vectors = unit_vectors(np.load(file))
        results += [compare(file.stem, vectors[:size]) for size in sorted({min(size, len(vectors)) for size in arguments.sizes})]
    if arguments.texts:
        vectors = mixed_vectors(vectors, arguments.texts)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak_bytes()
        start = time.perf_counter()
        approximate_neighbours(vectors, COUNT)
        seconds = time.perf_counter() - start
        rise = peak_bytes() - before
        stated = approximate_bytes(*vectors.shape, COUNT)
        results.append(
            {"texts": arguments.texts, "dimensions": arguments.dimensions, "approximate_s": round(seconds, 1), "rise_mb": rise >> 20}
        )
        print(f"{arguments.texts:,} vectors: {seconds:,.1f} s, {rise / 2**20:,.0f} MB beside the vectors ({stated / 2**20:,.0f} stated)")
    print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
