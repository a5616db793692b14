"""Embedding on a Ray cluster of this machine, with one and two workers of one core each, against one process on one core.

Usage::

    python benchmarks/cluster.py --texts 20000 [--file FILE] [--block 512] [--dtype auto|float32|bfloat16]

The texts are those of a file, one a line, repeated with running ids until there are enough; a repeated text gets a number, so that it is
another text. The single process writes nothing; the cluster reads texts from parquet and writes vectors to parquet, which belongs to its
price. Loading a model and starting Ray are timed by themselves (``start_seconds``), because they do not grow with the number of texts:
rates are from the first round of finished blocks to the last block, and from the first text to the last in one process.
``overhead_one_worker`` is the share by which one worker is slower than the single process (negative: faster), ``speedup_two_workers`` the
rate of two workers over that of the single process. Memory is the largest of the sampled proportional set sizes (PSS) of all processes.
Vectors are compared (``largest_difference``). A table and, as the last line, one JSON object go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from _workload import ONE_WORD, default_weights, sample_texts

from embedding_adaptation import Embedder, Strategy
from embedding_adaptation.cluster import embedder as cluster_embedder
from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.embedder import ClusterEmbedder
from embedding_adaptation.cluster.settings import ClusterSettings
from embedding_adaptation.embedder.weights import DecoderWeights

MAX_LENGTH = 256


@dataclass
class Memory:
    """The largest memory of this process and those it started, sampled; a context."""

    peak: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._end.wait(2.0):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


def repeated(texts: list[str], count: int) -> list[str]:
    """``count`` different texts."""
    return [texts[number % len(texts)] + (f" ({number // len(texts)})" if number >= len(texts) else "") for number in range(count)]


def single(weights: DecoderWeights, texts: list[str], strategy: Strategy, dtype: str) -> tuple[dict[str, float], np.ndarray]:
    """One process on one core."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    with Memory() as memory:
        embedder = Embedder.load(weights, device="cpu", dtype=dtype, max_length=MAX_LENGTH)
        embedder.encode(texts[:16], strategy, progress=False)
        start = time.perf_counter()
        vectors = embedder.encode(texts, strategy)
        seconds = time.perf_counter() - start
    return {"texts_per_second": len(texts) / seconds, "start_seconds": start - begin, "peak_gb": memory.peak / 1e9}, vectors


def on_cluster(
    weights: DecoderWeights, texts: list[str], strategy: Strategy, dtype: str, workers: int, block: int, folder: Path
) -> tuple[dict[str, float], np.ndarray]:
    """A cluster on this machine."""
    finished: list[tuple[float, int]] = []
    encode_blocks = cluster_embedder.encode_blocks

    def timed(*arguments: object, **options: object) -> object:
        for one in encode_blocks(*arguments, **options):
            finished.append((time.perf_counter(), one.rows))
            yield one

    cluster_embedder.encode_blocks = timed
    settings = ClusterSettings(folder / "blocks", workers=workers, min_texts=1, block_texts=block)
    begin = time.perf_counter()
    try:
        with Memory() as memory:
            embedder = ClusterEmbedder.on(settings, weights, device="cpu", dtype=dtype, max_length=MAX_LENGTH)
            made = embedder.encode_to_parquet(enumerate(texts), folder / "out", strategy)
            end = time.perf_counter()
    finally:
        cluster_embedder.encode_blocks = encode_blocks
        session.stop(succeeded=True)
    vectors = np.concatenate(
        [
            pq.read_table(file)["vector"].combine_chunks().flatten().to_numpy().reshape(-1, embedder.dimension(strategy))
            for file in made.files
        ]
    )
    # Before the first round of blocks is finished, workers load; that round is left out on both ends of the clock.
    first = finished[workers - 1][0]
    rate = sum(rows for _, rows in finished[workers:]) / (finished[-1][0] - first)
    loaded = first - finished[0][1] * workers / rate
    return {"texts_per_second": rate, "start_seconds": loaded - begin, "wall_seconds": end - begin, "peak_gb": memory.peak / 1e9}, vectors


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--file", type=Path, help="texts, one a line; without, the project's sample")
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    arguments = parser.parse_args()
    lines = arguments.file.read_text(encoding="utf-8").splitlines() if arguments.file else sample_texts(10_000)
    texts = repeated([line for line in lines if line.strip()], arguments.texts)
    strategy = Strategy("prompted_last", ONE_WORD, "last")
    weights = default_weights()
    sides: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="embedding-adaptation-") as scratch:
        sides["single_process"], expected = single(weights, texts, strategy, arguments.dtype)
        difference = 0.0
        for workers, name in ((1, "one_worker"), (2, "two_workers")):
            sides[name], vectors = on_cluster(weights, texts, strategy, arguments.dtype, workers, arguments.block, Path(scratch) / name)
            difference = max(difference, float(np.abs(vectors - expected).max()))
    print(f"{'':16}{'texts/s':>10}{'start s':>10}{'peak GB':>10}")
    for name, side in sides.items():
        print(f"{name:16}{side['texts_per_second']:10.1f}{side['start_seconds']:10.1f}{side['peak_gb']:10.2f}")
    rate = {name: side["texts_per_second"] for name, side in sides.items()}
    result = {
        "texts": len(texts),
        "overhead_one_worker": rate["single_process"] / rate["one_worker"] - 1,
        "speedup_two_workers": rate["two_workers"] / rate["single_process"],
        "neighbour_recall": None,
        "largest_difference": difference,
        **{name: {key: round(value, 3) for key, value in side.items()} for name, side in sides.items()},
    }
    print(json.dumps(result))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
