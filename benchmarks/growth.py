"""How the time of every stage but embedding grows with the corpus: python benchmarks/growth.py FILE... [--texts 5000 20000].

Texts are taken from the files (.csv with a column text, or .txt) in random order. Vectors are synthetic, in groups, as clustering's
benchmark has them. Seconds are of the processor, so that other work on the machine counts little. A growth of 1 is linear, of 2 with the
square.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from embedding_adaptation.texts.stream import TextStream
from embedding_adaptation.vectors.store import VectorStore
from embedding_adaptation.vectors.unit import unit_vectors

GROUPS, SPREAD = 200, 1.0


def read_texts(files: list[Path]) -> list[str]:
    """Distinct texts of all files, in random order."""
    texts: list[str] = []
    for file in files:
        texts += pd.read_csv(file)["text"].tolist() if file.suffix == ".csv" else file.read_text(encoding="utf-8").splitlines()
    texts = list(dict.fromkeys(str(text) for text in texts if str(text).strip()))
    return [texts[place] for place in np.random.default_rng(0).permutation(len(texts))]


def synthetic_vectors(count: int, width: int) -> np.ndarray:
    """Unit vectors in groups."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(GROUPS, width)).astype(np.float32)
    return unit_vectors(centres[rng.integers(GROUPS, size=count)] + SPREAD * rng.normal(size=(count, width)).astype(np.float32))


def stages(texts: list[str], vectors: np.ndarray) -> dict[str, Callable[[], object]]:
    """The stages, by name."""
    from embedding_adaptation.pipelines.adaptation_page.comparison import most_moved
    from embedding_adaptation.pipelines.adaptation_page.options import PageOptions
    from embedding_adaptation.pipelines.contrastive_finetuning.batches import PairBatches
    from embedding_adaptation.pipelines.contrastive_finetuning.pair_groups import pair_groups
    from embedding_adaptation.pipelines.data_augmentation.cleaning import clean
    from embedding_adaptation.pipelines.data_augmentation.options import CleaningOptions
    from embedding_adaptation.pipelines.text_clustering import nodes
    from embedding_adaptation.pipelines.text_clustering.corpus import count_texts
    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
    from embedding_adaptation.vectors.agreement_of_views import CharacterView
    from embedding_adaptation.vectors.neighbours import Search, mutual_neighbours, nearest_neighbours

    settings = yaml.safe_load((Path(__file__).parents[1] / "conf/base/parameters/text_clustering.yml").read_text())["text_clustering"]
    clustering = TextClusteringOptions.model_validate(settings | {"seed": 0, "private": False})
    frame = pd.DataFrame({"id": [str(row) for row in range(len(texts))], "text": texts}, dtype=str)
    corpus = TextStream.of(frame)
    half = len(texts) // 2
    pairs = pd.DataFrame({"source_text": texts[:half], "generated_text": texts[half : 2 * half]})
    bounds = {"neighbours": 3, "min_similarity": 0.0, "near_duplicate": 0.9, "max_pairs_per_text": 3}
    kept: dict[str, object] = {}

    def cluster() -> None:
        kept["clusters"] = nodes.cluster_texts(corpus, VectorStore.of(vectors), clustering)[0]

    def clean_all() -> None:
        clean(corpus, CleaningOptions(max_texts=None), 0)[0].table()

    def describe() -> None:
        profiles = nodes.describe_clusters(corpus, kept["clusters"], clustering)
        nodes.list_assignments(corpus, kept["clusters"], profiles.assign(name="x")).table()

    def batches() -> int:
        groups = np.arange(2 * half).reshape(half, 2)
        return sum(1 for _ in PairBatches(groups, batch_size=min(96, half), steps=max(1, half // 96), seed=0))

    return {
        "clean, near-duplicates": clean_all,
        "count": lambda: count_texts(corpus),
        "neighbours, exact": lambda: nearest_neighbours(vectors, 8, Search("exact")),
        "neighbours, approximate": lambda: nearest_neighbours(vectors, 8, Search("approximate")),
        "mutual pairs, approximate": lambda: mutual_neighbours(vectors, texts, **bounds, search=Search("approximate")),
        "groups of pairs": lambda: pair_groups(pairs, same_source=True, near_duplicate=0.8),
        "batches of an epoch": batches,
        "words and characters": lambda: CharacterView(texts).agreement(vectors),
        "cluster": cluster,
        "describe and list": describe,
        "page: who moved": lambda: most_moved(vectors[:5000], vectors[:5000][:, ::-1], PageOptions(seed=0)),
    }


def main() -> None:
    """Time the stages on few and on many texts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--texts", type=int, nargs=2, default=(5_000, 20_000))
    parser.add_argument("--dimensions", type=int, default=576)
    parser.add_argument("--only", nargs="+", help="stages whose names begin so")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    texts = read_texts(arguments.files)
    if len(texts) < max(arguments.texts):
        parser.error(f"the files have {len(texts):,} distinct texts, fewer than {max(arguments.texts):,}; give more")
    seconds: dict[str, list[float]] = {}
    for count in arguments.texts:
        for name, stage in stages(texts[:count], synthetic_vectors(count, arguments.dimensions)).items():
            if arguments.only and not name.startswith(tuple(arguments.only)):
                continue
            start = time.process_time()
            stage()
            seconds.setdefault(name, []).append(time.process_time() - start)
            print(f"{count:>9,} texts: {name:<26} {seconds[name][-1]:>8.2f} s", flush=True)
    few, many = arguments.texts
    results = {}
    for name, (one, other) in seconds.items():
        growth = np.log(other / one) / np.log(many / few)
        print(f"{name:<26} {one:>8.2f} s {other:>8.2f} s   growth {growth:.2f}")
        results[name] = {"seconds": [round(one, 2), round(other, 2)], "growth": round(float(growth), 2)}
    print(json.dumps({"texts": list(arguments.texts), "stages": results}))


if __name__ == "__main__":
    main()
