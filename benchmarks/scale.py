"""Speed and memory of data augmentation's stages on very many texts: python benchmarks/scale.py [--texts 1000000].

Each stage runs in a process of its own, first on 2,000 texts and then on all: the difference in peak memory is what grows with the
corpus. The texts are made as they are read, so that neither a file nor a table of them is measured: 8 to 30 words of a vocabulary of
20,000; one in 20 is a copy of an earlier text, and one in 20 a copy in which a character differs (a Jaccard similarity of about 0.9).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from embedding_adaptation.texts.stream import TextStream

SMALL = 2_000
PIECE = 10_000
VOCABULARY = 20_000
SHARE = 0.05  # of copies, and of near copies


def synthetic_texts(count: int) -> TextStream:
    """Texts generated from their row numbers alone."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    share = 1 / np.arange(3, 3 + len(letters))
    words = ["".join(rng.choice(letters, size=length, p=share / share.sum())) for length in rng.integers(2, 11, VOCABULARY)]
    vocabulary = np.array(words, dtype=object)

    def originals(piece: int) -> list[str]:
        rng = np.random.default_rng([1, piece])
        ends = np.cumsum(rng.integers(8, 31, PIECE))
        drawn = vocabulary[(VOCABULARY ** rng.random(ends[-1])).astype(int) - 1].tolist()  # few words make up most of the texts
        return [" ".join(drawn[start:end]) for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]

    def pieces() -> Iterator[pd.DataFrame]:
        for number, start in enumerate(range(0, count, PIECE)):
            texts = originals(number)
            rng = np.random.default_rng([2, number])
            earlier = originals(int(rng.integers(number))) if number else texts
            kind = rng.random(PIECE)
            for row in np.flatnonzero(kind < 2 * SHARE).tolist():
                text = earlier[int(rng.integers(max(row, 1)))]
                middle = len(text) // 2
                texts[row] = text if kind[row] < SHARE else f"{text[:middle]}0{text[middle + 1 :]}"
            rows = min(PIECE, count - start)
            yield pd.DataFrame({"id": [str(start + row) for row in range(rows)], "text": texts[:rows]}, dtype=str)

    return TextStream(pieces)


def read_texts(texts: TextStream) -> dict[str, int]:
    """Generate the texts only."""
    return {"rows": sum(len(piece) for piece in texts.pieces())}


def clean_texts(texts: TextStream) -> dict[str, int]:
    """Clean the texts and read the result once."""
    from embedding_adaptation.pipelines.data_augmentation.cleaning import clean
    from embedding_adaptation.pipelines.data_augmentation.options import CleaningOptions

    cleaned, report = clean(texts, CleaningOptions(max_texts=None, near_duplicates=0.8), seed=0)
    rows = sum(len(piece) for piece in cleaned.pieces())
    return {name: number for name, number in report.items() if isinstance(number, int) and number} | {"rows": rows}


def noise_texts(texts: TextStream) -> dict[str, int]:
    """Clean the texts, then generate, score and select noisy pairs of them, writing every step to disk as the pipeline does."""
    import logging

    from embedding_adaptation.datasets.shards import ShardsDataset
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.data_augmentation import nodes
    from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions

    logging.disable(logging.WARNING)
    strategy = {"weights": "base", "template": "bare", "pooling": "mean"}
    embedder = EmbedderOptions.model_validate({"templates": {"bare": "{text}"}, "strategies": {"a": strategy}, "adapt": "a"})
    filters = {"drift": None, "language": None, "new_words": None}
    options = AugmentationOptions.model_validate(
        {
            "cleaning": {"max_texts": None, "near_duplicates": 0.8},
            "generators": {"noise": {}},
            "filters": filters,
            "shard_size": PIECE,
            "seed": 0,
        }
    )
    weights = _NoModel()
    with tempfile.TemporaryDirectory() as folder:
        cleaned, _ = nodes.clean_corpus(texts, options, embedder)
        cleaned.write_parquet(Path(folder) / "clean.parquet")
        corpus = TextStream.of_parquet(Path(folder) / "clean.parquet")
        candidates, scores = (ShardsDataset(filepath=f"{folder}/{name}") for name in ("candidates", "scores"))
        for shard in nodes.generate_candidates(corpus, weights, None, candidates.load(), options, embedder):  # type: ignore[arg-type]
            candidates.save(shard)
        for shard in nodes.score_candidates(corpus, candidates.load(), scores.load(), weights, options, embedder):  # type: ignore[arg-type]
            scores.save(shard)
        accepted, rejected, report = nodes.select_pairs(corpus, candidates.load(), scores.load(), weights, options, embedder)  # type: ignore[arg-type]
        accepted.write_parquet(Path(folder) / "accepted.parquet")
        rejected.write_parquet(Path(folder) / "rejected.parquet")
    return {"candidates": report["candidates"], "accepted": report["accepted"]}


class _NoModel:
    """Noise needs no model."""


# A stage takes the texts, drains what it makes of them and returns its counts. Its results are named after it.
STAGES: dict[str, Callable[[TextStream], dict[str, int]]] = {"read": read_texts, "clean": clean_texts, "noise": noise_texts}


def measure(stage: str, count: int) -> None:
    """Run one stage in this process and print time and memory."""
    start = time.perf_counter()
    counts = STAGES[stage](synthetic_texts(count))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(seconds, 2), "peak_mb": round(peak, 1), "counts": counts}))


def main() -> None:
    """Run every stage on few and on many texts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure(arguments.stages[0], arguments.only)
        return
    results: dict[str, float] = {"texts": arguments.texts}
    for stage in arguments.stages:
        runs = {}
        for count in (SMALL, arguments.texts):
            command = [sys.executable, __file__, "--stages", stage, "--only", str(count)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[count] = json.loads(output.splitlines()[-1])
        small, large = runs[SMALL], runs[arguments.texts]
        speed = arguments.texts / large["seconds"]
        growth = large["peak_mb"] - small["peak_mb"]
        print(
            f"{stage:<8} {arguments.texts:>12,} texts in {large['seconds']:,.1f} s ({speed:,.0f} texts/s); "
            f"peak memory {large['peak_mb']:,.0f} MB, {growth:,.0f} MB above that of {SMALL:,} texts; {large['counts']}",
            flush=True,
        )
        results |= {
            f"{stage}_texts_per_s": round(speed),
            f"{stage}_peak_mb": large["peak_mb"],
            f"{stage}_peak_mb_small": small["peak_mb"],
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
