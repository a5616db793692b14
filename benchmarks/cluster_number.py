"""Accuracy of the estimated number of clusters: python benchmarks/cluster_number.py FILE[:TEXTS] [FILE[:TEXTS] ...] --save FOLDER.

Each FILE is a labelled set with columns ``text`` and ``label``, of which TEXTS (1,500) are drawn. Its texts are embedded as text_clustering
does with base weights; vectors are kept in FOLDER. The number of clusters is chosen on the whole of each set, on mixtures of known
numbers of its labels, equal and unequal in size, on mixtures of two sets, and on each set with all words shuffled across its texts,
which has no topics. Labels only judge: V-measure of the project's k-means at the true number, at the chosen one, at that of the earlier
rule (the largest number whose agreement is within a standard error of the best, uncorrected), and at the best of all candidates. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from _workload import PROJECT, default_weights
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, v_measure_score

from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.text_clustering.clustering import cluster_vectors
from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
from embedding_adaptation.pipelines.text_clustering.stability import choose_number
from embedding_adaptation.runtime import build_strategy, load_embedder
from embedding_adaptation.vectors.kmeans import assign, cluster_by_cosine
from embedding_adaptation.vectors.store import VectorStore
from embedding_adaptation.vectors.unit import unit_vectors

PARTS = (8, 4, 2)  # mixtures hold an eighth, a quarter and half of the labels, at least two
OLD_CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
STRUCTURELESS = 0  # groups in shuffled words


@dataclass(frozen=True)
class Case:
    """Texts whose groups are known.

    Attributes:
        name: Its name.
        vectors: ``[n, D]``.
        labels: ``[n]``; all equal if there are no groups.
    """

    name: str
    vectors: np.ndarray
    labels: np.ndarray


def options_of(name: str) -> dict[str, Any]:
    """The project's parameters of one pipeline, without references to globals."""
    text = (PROJECT / "conf/base/parameters" / f"{name}.yml").read_text().replace("${globals:seed}", "0")
    return yaml.safe_load(text.replace("${globals:device}", "auto").replace("${globals:dtype}", "auto"))[name]


def embedded(texts: list[str], folder: Path) -> np.ndarray:
    """Vectors of texts under the default base strategy of text_clustering, computed once."""
    file = folder / f"{hashlib.blake2b(chr(0).join(texts).encode(), digest_size=8).hexdigest()}.npy"
    if not file.exists():
        options = EmbedderOptions.model_validate(options_of("embedder"))
        strategy = build_strategy(options_of("text_clustering")["strategies"]["base"], options)
        np.save(file, load_embedder(default_weights(), options).encode(texts, strategy))
    vectors: np.ndarray = np.load(file)
    return vectors


def shuffled(texts: list[str], seed: int) -> list[str]:
    """Texts as long as these, of all their words in random order."""
    words = [text.split() for text in texts]
    every = np.array([word for some in words for word in some], dtype=object)
    every = every[np.random.default_rng(seed).permutation(len(every))]
    ends = np.cumsum([len(some) for some in words])
    return [" ".join(every[end - len(some) : end]) for end, some in zip(ends, words, strict=True)]


def mixture(labels: np.ndarray, count: int, rng: np.random.Generator, *, unequal: bool) -> np.ndarray:
    """Rows of so many labels drawn at random; where unequal, from all of the first's rows down to a fifth of the last's."""
    rows = []
    for place, label in enumerate(rng.permutation(np.unique(labels))[:count]):
        own = rng.permutation(np.flatnonzero(labels == label))
        rows.append(own[: max(5, round(len(own) * (1 - 0.8 * place / max(count - 1, 1))))] if unequal else own)
    return np.sort(np.concatenate(rows))


def cases(paths: Sequence[str], folder: Path, shuffled_texts: int) -> Iterator[Case]:
    """The sets, their mixtures, mixtures of two, and shuffled words."""
    sets: list[Case] = []
    texts_of: dict[str, list[str]] = {}
    for number, given in enumerate(paths):
        path, _, texts = given.partition(":")
        frame = pd.read_csv(path).drop_duplicates("text").sample(frac=1, random_state=0).head(int(texts or 1500))
        labels = frame["label"].astype(str).to_numpy()
        case = Case(Path(path).stem, embedded(frame["text"].tolist(), folder), labels)
        sets.append(case)
        texts_of[case.name] = frame["text"].tolist()
        yield case
        most = len(np.unique(labels))
        for count in sorted({max(2, most // part) for part in PARTS}):
            for unequal in (False, True):
                rows = mixture(labels, count, np.random.default_rng([number, count, unequal]), unequal=unequal)
                yield Case(f"{case.name}, {count} labels{', unequal' * unequal}", case.vectors[rows], labels[rows])
    for first in range(len(sets)):
        for second in range(first):
            one, two = sets[first], sets[second]
            rng = np.random.default_rng([first, second])
            ones, twos = (rng.permutation(len(case.labels))[:750] for case in (one, two))
            labels = np.concatenate([np.char.add("a ", one.labels[ones].astype(str)), np.char.add("b ", two.labels[twos].astype(str))])
            yield Case(f"{two.name} + {one.name}", np.concatenate([one.vectors[ones], two.vectors[twos]]), labels)
    for name, some in texts_of.items():
        random = shuffled(some[:shuffled_texts], seed=0)
        yield Case(f"{name}, words shuffled", embedded(random, folder), np.zeros(len(random), int))


def earlier_rule(matrix: np.ndarray, pairs: int) -> int:
    """The number chosen by agreement alone: k-means from two random starts in all dimensions."""
    found = {}
    size = round(0.8 * len(matrix))
    for clusters in OLD_CANDIDATES:
        if clusters * 5 > size:
            continue
        values = []
        for pair in range(pairs):
            rng = np.random.default_rng([0, pair])
            draws = [np.sort(rng.choice(len(matrix), size, replace=False)) for _ in range(2)]
            _, *common = np.intersect1d(draws[0], draws[1], assume_unique=True, return_indices=True)
            labels = [
                KMeans(clusters, n_init=2, random_state=2 * pair + side).fit_predict(matrix[rows])[places]
                for side, (rows, places) in enumerate(zip(draws, common, strict=True))
            ]
            values.append(adjusted_rand_score(*labels))
        found[clusters] = (np.mean(values), np.std(values, ddof=1) / np.sqrt(pairs))
    best, error = max(found.values())
    return max(clusters for clusters, (value, _) in found.items() if value >= best - error)


def measure(case: Case, options: TextClusteringOptions, old_pairs: int) -> dict[str, Any]:
    """Measure one case."""
    store = VectorStore.of(case.vectors)
    clusters, curve = cluster_vectors(store, options)
    tried = curve["clusters"].tolist()
    found: dict[str, Any] = {"name": case.name, "texts": len(case.labels), "chosen": int(curve.loc[curve["chosen"], "clusters"].iloc[0])}
    found |= {"hdbscan": clusters.facts["hdbscan_clusters"], "structure": clusters.facts["structure"], "steps": clusters.facts.get("steps")}
    found["corrected"] = clusters.facts.get("agreement_corrected")
    found["old"] = earlier_rule(unit_vectors(case.vectors), old_pairs)
    true = len(np.unique(case.labels))
    if true == 1:
        return found | {"true": STRUCTURELESS}

    def judged(number: int) -> float:
        labels = assign(store, cluster_by_cosine(store, number, options.seed, **options.kmeans.model_dump())).labels
        return float(v_measure_score(case.labels, labels))

    scores = {number: judged(number) for number in sorted({*tried, true, found["old"]})}
    found |= {"true": true, "best": max(tried, key=scores.__getitem__)}
    return found | {f"v_{which}": round(scores[found[which]], 4) for which in ("true", "old", "chosen", "best")}


def cost(matrix: np.ndarray, options: TextClusteringOptions) -> dict[str, float]:
    """CPU seconds of the choice by either rule, with the same candidates and pairs."""
    seconds = {}
    for name, work in (
        ("earlier", lambda: earlier_rule(matrix, options.stability.pairs)),
        ("now", lambda: choose_number(matrix, OLD_CANDIDATES, options.stability, options.seed)),
    ):
        start = time.process_time()
        work()
        seconds[name] = round(time.process_time() - start, 2)
    return seconds | {"ratio": round(seconds["now"] / seconds["earlier"], 3)}


def main() -> None:
    """Print one row per case, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="csv files with the columns text and label, each with :TEXTS where not 1,500 are wanted")
    parser.add_argument("--save", type=Path, required=True, help="folder for vectors")
    parser.add_argument("--shuffled", type=int, default=400, help="texts whose words are shuffled")
    parser.add_argument("--old-pairs", type=int, default=10, help="pairs of resamples of the earlier rule, which takes most of the time")
    parser.add_argument("--starts", type=int, help="of the k-means that is judged; the project's where not given")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    arguments.save.mkdir(parents=True, exist_ok=True)
    settings = options_of("text_clustering")
    if arguments.starts:
        settings["kmeans"]["starts"] = arguments.starts
    options = TextClusteringOptions.model_validate(settings)
    rows = []
    print(f"{'':<44}{'texts':>6}{'true':>6}{'old':>5}{'chosen':>8}{'HDBSCAN':>9}{'best':>6}   V: true   old chosen  best")
    first: np.ndarray | None = None
    for case in cases(arguments.files, arguments.save, arguments.shuffled):
        first = case.vectors if first is None else first
        row = measure(case, options, arguments.old_pairs)
        rows.append(row)
        numbers = f"{row['name']:<44}{row['texts']:>6}{row['true']:>6}{row['old']:>5}{row['chosen']:>8}{row['hdbscan'] or 0:>9}"
        if row["true"] == STRUCTURELESS:
            print(f"{numbers}{'':>6}   structure: {row['structure']}", flush=True)
        else:
            scores = "".join(f"{row[f'v_{what}']:>6.3f}" for what in ("true", "old", "chosen", "best"))
            warned = "" if row["structure"] == "found" else f"  structure: {row['structure']}"
            print(f"{numbers}{row['best']:>6}     {scores}{warned}", flush=True)
    judged = [row for row in rows if row["true"] != STRUCTURELESS]
    result = {
        "cases": rows,
        "lost": {
            which: round(float(np.mean([row["v_best"] - row[f"v_{which}"] for row in judged])), 4) for which in ("true", "old", "chosen")
        },
        "within_0.03": sum(row["v_best"] - row["v_chosen"] <= 0.03 for row in judged),  # noqa: PLR2004
        "within_0.03_old": sum(row["v_best"] - row["v_old"] <= 0.03 for row in judged),  # noqa: PLR2004
        "judged": len(judged),
        "cpu_seconds": cost(unit_vectors(first), options),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
