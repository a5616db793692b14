"""Cost of scoring compared with plain mteb: python benchmarks/evaluate.py --texts FILE [--column text] [--label label] [--limit 1000].

Both sides score the same texts under the same strategies with the same weights, in one process and in turns: this project's grid with an
empty store (embeddings, mteb's protocol, scores on unique documents with k known and estimated, resamples, tests), and mteb.evaluate of the
strategy as a model of sentence-transformers. Once with one strategy, once with ten: two templates that begin alike, five poolings each.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import pandas as pd
import torch
from _workload import PROJECT, default_weights, weights_of

from embedding_adaptation import Embedder
from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.datasets.shards import ShardsDataset
from embedding_adaptation.datasets.texts import TextsDataset
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.clustering_evaluation.cells import gather
from embedding_adaptation.pipelines.clustering_evaluation.comparison import compare
from embedding_adaptation.pipelines.clustering_evaluation.grid import plan, score_missing
from embedding_adaptation.pipelines.clustering_evaluation.options import ComparatorOptions, EvaluationOptions
from embedding_adaptation.pipelines.clustering_evaluation.scoring import labelled_texts_task
from embedding_adaptation.pipelines.clustering_evaluation.tasks import labelled_task
from embedding_adaptation.pipelines.clustering_evaluation.vectors import Contenders

TEMPLATES = {
    "one_word": 'This sentence: "{text}" means in one word: "',
    "cluster": 'This sentence: "{text}" belongs to the following cluster:',
}
POOLINGS = ("last", "mean", "text_mean", "weighted_mean", "max")
_SEED = 42
_NOTHING_PUBLISHED = pd.DataFrame({"model": [], "tasks": [], "score": [], "source": []})


def embedder_options(count: int, dtype: str) -> EmbedderOptions:
    """The first strategies of two templates and five poolings."""
    grid = list(itertools.product(TEMPLATES, POOLINGS))[:count]
    strategies = {f"{name}.{pooling}": {"weights": "base", "template": name, "pooling": pooling} for name, pooling in grid}
    return EmbedderOptions.model_validate(
        {"dtype": dtype, "templates": TEMPLATES, "strategies": strategies, "adapt": next(iter(strategies))}
    )


def ours(frame: pd.DataFrame, weights: DecoderWeights, embedder: EmbedderOptions, options: EvaluationOptions) -> dict[str, float]:
    """V-measure by strategy through this project's grid, with nothing stored."""
    with tempfile.TemporaryDirectory() as folder:
        contenders = Contenders(
            names=list(embedder.strategies),
            extracted={},
            labelled=[],
            weights={"base": weights},
            after={},
            embedder_options=embedder,
            comparators=ComparatorOptions(random=False, tfidf=False),
            store=EmbeddingStore(Path(folder) / "store"),
        )
        tasks = [labelled_task("texts", frame, options.seeds)]
        cells = ShardsDataset(filepath=str(Path(folder) / "cells"))
        planned = plan(tasks, contenders, options)
        for cell in score_missing(planned, tasks, contenders, cells.load(), options):
            cells.save(cell)
        scored = gather(planned, cells.load())
        compare(scored, _NOTHING_PUBLISHED, options, embedder)
    return {row["strategy"]: row["metrics"]["v_measure"] for row in scored.to_dict("records")}


def plain(frame: pd.DataFrame, weights: DecoderWeights, embedder: EmbedderOptions) -> dict[str, float]:
    """V-measure by strategy through mteb alone."""
    import mteb

    found = {}
    for name, chosen in embedder.strategies.items():
        model = Embedder.load(weights, dtype=embedder.dtype).sentence_transformer(embedder.strategy(name, chosen))
        task = labelled_texts_task(frame["text"].tolist(), frame["label"].tolist(), _SEED)
        result = mteb.evaluate(model, [task], cache=None, show_progress_bar=False)
        found[name] = result.task_results[0].scores["test"][0]["v_measure"]
    return found


def main() -> None:
    """Alternate the sides, print medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=PROJECT / "data" / "01_raw" / "hard_labelled_texts.csv")
    parser.add_argument("--column", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--strategies", type=int, default=10)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--model", help="a base model setting; default: the project's")
    parser.add_argument("--repeats", type=int, default=3, help="of one strategy; the ten run once")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    frame = TextsDataset(filepath=str(arguments.texts), text_column=arguments.column, label_column=arguments.label).load()
    frame = frame.sample(frac=1, random_state=0).head(arguments.limit).reset_index(drop=True)
    weights = weights_of(arguments.model, PROJECT / "build/benchmark") if arguments.model else default_weights()
    options = EvaluationOptions.model_validate({"seeds": [_SEED], "statistics": {"seed": 0}, "map_strategies": ["", ""]})
    one, ten = embedder_options(1, arguments.dtype), embedder_options(arguments.strategies, arguments.dtype)
    warm_up = frame.groupby("label").head(2)
    ours(warm_up, weights, one, options)
    plain(warm_up, weights, one)

    seconds: dict[str, list[float]] = {name: [] for name in ("ours, one", "mteb, one", "ours, ten", "mteb, ten")}
    scores: dict[str, dict[str, float]] = {}
    turns = [("ours, one", one), ("mteb, one", one)] * arguments.repeats + [("ours, ten", ten), ("mteb, ten", ten)]
    for side, strategies in turns:
        start = time.perf_counter()
        if side.startswith("ours"):
            scores[side] = ours(frame, weights, strategies, options)
        else:
            scores[side] = plain(frame, weights, strategies)
        seconds[side].append(time.perf_counter() - start)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    print(f"{len(frame)} texts, {frame['label'].nunique()} labels, {torch.get_num_threads()} threads")
    for side, value in medians.items():
        print(f"  {side:<12}{value:>8.1f} s")
    result = {
        "ratio_one_strategy": round(medians["ours, one"] / medians["mteb, one"], 3),
        "speedup_ten_strategies": round(medians["mteb, ten"] / medians["ours, ten"], 2),
        "strategies": len(ten.strategies),
        "largest_score_difference": max(abs(scores["ours, ten"][name] - score) for name, score in scores["mteb, ten"].items()),
        "texts": len(frame),
        "seconds": {side: [round(value, 2) for value in values] for side, values in seconds.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
