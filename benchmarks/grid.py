"""Cost of a grid of strategies compared with one strategy: python benchmarks/grid.py --texts FILE [--column text] [--limit 500] [--paper].

Both sides embed the same texts in one process: one template with one pooling, and eight templates with four poolings and three layers
each. A few texts are embedded again in float32, by the grid and by as many passes as there are strategies, and compared. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from _workload import PROJECT, default_weights, weights_of

from embedding_adaptation import Embedder, PromptTemplate, Strategy
from embedding_adaptation.embedder.weights import DecoderWeights

SHARED = (
    "one_word", "cluster", "summarised", "classified", "sentence_topic", "sentence_category", "sentence_subject", "sentence_keyword",
)  # fmt: skip
PAPER = ("bare", "one_word_open", "cluster", "cluster_task", "summarised", "step_by_step", "classified", "which_cluster")
POOLINGS = ("last", "text_mean", "mean", "weighted_mean")
LAYERS = (-1, -2, -3)
_PAPER = "grid of the paper's templates"


def grid(names: tuple[str, ...]) -> list[Strategy]:
    """Every combination of templates, poolings and layers."""
    patterns = yaml.safe_load((PROJECT / "conf/base/parameters/embedder.yml").read_text())["embedder"]["templates"]
    return [
        Strategy(f"{name}.{pooling}.{layer}", PromptTemplate(name, patterns[name]), pooling, (layer,))
        for name, pooling, layer in itertools.product(names, POOLINGS, LAYERS)
    ]


def largest_difference(weights: DecoderWeights, texts: list[str], strategies: list[Strategy]) -> float:
    """Largest difference between the grid and one pass per strategy, in float32."""
    embedder = Embedder.load(weights, dtype="float32")
    together = embedder.encode_strategies(texts, strategies, progress=False)
    return max(float(np.abs(embedder.encode(texts, s, progress=False) - together[s.name]).max()) for s in strategies)


def main() -> None:
    """Alternate the sides, print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--column", default="text")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--model", help="a base model setting; default: the project's")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--paper", action="store_true", help="also the paper's templates, which begin in five ways and so take five passes")
    parser.add_argument("--check", type=int, default=20, help="texts for the comparison in float32")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    texts = pd.read_csv(arguments.texts)[arguments.column].sample(frac=1, random_state=0).head(arguments.limit).tolist()
    weights = weights_of(arguments.model, PROJECT / "build/benchmark") if arguments.model else default_weights()
    embedder = Embedder.load(weights, dtype=arguments.dtype)
    sides = {"one strategy": [grid(SHARED)[0]], "grid": grid(SHARED)}
    if arguments.paper:
        sides[_PAPER] = grid(PAPER)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    tokens: dict[str, int] = {}
    embedder.encode_strategies(texts[:20], sides["grid"], progress=False)
    for turn in range(arguments.repeats):
        for name, strategies in sides.items():
            if turn and name == _PAPER:
                continue  # once is enough to see it
            before, start = embedder.tokens_computed, time.perf_counter()
            embedder.encode_strategies(texts, strategies, progress=False)
            seconds[name].append(time.perf_counter() - start)
            tokens[name] = embedder.tokens_computed - before
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    one = medians["one strategy"]
    print(f"{len(texts)} texts, {torch.get_num_threads()} threads, {str(embedder.backbone.dtype).removeprefix('torch.')}")
    for name, value in medians.items():
        print(f"  {name:<32}{len(sides[name]):>4} strategies {value:>8.1f} s  x{value / one:.2f}   {tokens[name]:>8} tokens computed")
    result = {
        "ratio_grid_to_one_pass": round(medians["grid"] / one, 3),
        "ratio_paper_templates_to_one_pass": round(medians[_PAPER] / one, 3) if arguments.paper else None,
        "strategies": len(sides["grid"]),
        "largest_difference_float32": largest_difference(weights, texts[: arguments.check], sides["grid"]),
        "texts": len(texts),
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "tokens_computed": tokens,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
