"""Agreement of criteria without labels with V-measure, and the cost of choosing by them: python benchmarks/selection.py FILE [FILE ...].

Each FILE is a labelled set with columns ``text`` and ``label``. The strategies are ranked on its texts alone; the labels only judge.
Criteria are compared by Spearman's correlation with V-measure. The cost of a choice is the V-measure of the best strategy minus that of
the chosen one. It is also shown for a criterion that was picked on the *other* files (leave one out): one picked on the same labels would
flatter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from _workload import PROJECT, default_weights

from embedding_adaptation.options import EmbedderOptions, GridOptions
from embedding_adaptation.pipelines.clustering_evaluation.scoring import unique_document_scores
from embedding_adaptation.pipelines.strategy_selection.selection import draw_texts, embed_for_ranking
from embedding_adaptation.runtime import load_embedder
from embedding_adaptation.vectors.criteria import CRITERIA, combined_rank, criteria_table

TEMPLATES = (
    "bare", "one_word", "cluster", "summarised", "classified", "topic", "subject", "sentence_topic", "sentence_category",
    "sentence_keyword",
)  # fmt: skip
GRIDS = (
    {"templates": TEMPLATES, "poolings": ["last", "text_mean"], "layers": [-1, -2]},
    {"templates": TEMPLATES, "poolings": ["value_weighted"], "layers": [[-1, -2, -3, -4, -5, -6, -7, -8]]},
    {"templates": TEMPLATES, "poolings": ["last"], "after": [{"centre": True}, {"remove_components": 3}]},
)
SEEDS = (0, 1, 2)
MOST = 3  # criteria in a combination
DEFAULT = "one_word.last.-1"


def measured(path: Path, texts: int, embedder_options: EmbedderOptions) -> pd.DataFrame:
    """Criteria and V-measure of every strategy on one file."""
    strategies = {name: options for grid in GRIDS for name, options in GridOptions.model_validate(grid).strategies.items()}
    labelled = pd.read_csv(path).drop_duplicates("text")
    drawn = draw_texts(labelled["text"].tolist(), texts, seed=0)
    labels = labelled.set_index("text")["label"].loc[drawn].tolist()
    start = time.perf_counter()
    embedder = load_embedder(default_weights(), embedder_options)
    vectors, pairs = embed_for_ranking(embedder, drawn, strategies, embedder_options)
    encoded = time.perf_counter()
    table = criteria_table(vectors, pairs, max_texts=texts, seed=0)
    print(f"{path.stem}: {len(drawn)} texts, {len(strategies)} strategies, {encoded - start:.0f} s to encode, "
          f"{time.perf_counter() - encoded:.0f} s for the criteria", flush=True)  # fmt: skip
    table["v_measure"] = [
        np.mean([unique_document_scores(matrix, drawn, labels, seed)["v_measure_unique"] for seed in SEEDS]) for matrix in vectors.values()
    ]
    return table


def regret(table: pd.DataFrame, criteria: tuple[str, ...]) -> float:
    """V-measure lost by taking the strategy that the criteria rank first."""
    chosen = combined_rank(table, criteria).to_numpy().argmin()
    return float(table["v_measure"].max() - table["v_measure"].iloc[chosen])


def agreement(table: pd.DataFrame, criteria: tuple[str, ...]) -> float:
    """Spearman's correlation of the combined rank with V-measure."""
    return float(-combined_rank(table, criteria).corr(table["v_measure"], method="spearman"))


def main() -> None:
    """Measure every file, then compare criteria and combinations of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--save", type=Path, help="a folder for the measured tables; those that are there are used again")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    parameters = yaml.safe_load((PROJECT / "conf/base/parameters/embedder.yml").read_text())["embedder"]
    options = EmbedderOptions.model_validate(parameters | {"device": "auto", "dtype": "auto"})
    tables = {}
    for path in arguments.files:
        kept = arguments.save / f"{path.stem}.csv" if arguments.save else None
        if kept and kept.exists():
            tables[path.stem] = pd.read_csv(kept)
            continue
        tables[path.stem] = measured(path, arguments.texts, options)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            tables[path.stem].to_csv(kept, index=False)
    combinations = [c for size in range(1, MOST + 1) for c in itertools.combinations(CRITERIA, size)]
    means = {c: float(np.mean([agreement(table, c) for table in tables.values()])) for c in combinations}
    names = list(tables)
    print("\nSpearman with V-measure, and V-measure lost by the choice")
    print(f"{'criteria':<60}" + "".join(f"{name:>24}" for name in names) + f"{'mean':>8}")
    singles = sorted(((c,) for c in CRITERIA), key=lambda c: -means[c])
    best = sorted((c for c in combinations if len(c) > 1), key=lambda c: -means[c])[:8]
    for criteria in [*singles, *best]:
        values = "".join(f"{agreement(t, criteria):>+14.2f}  (-{regret(t, criteria):.3f})" for t in tables.values())
        print(f"{' + '.join(criteria):<60}{values}{means[criteria]:>+8.2f}")
    left_out = {}
    for kind, candidates in (("one criterion", singles), (f"up to {MOST} criteria", combinations)):
        print(f"\nPicked on the other files, {kind}")
        for name in names if len(names) > 1 else ():
            others = [tables[other] for other in names if other != name]
            picked = max(candidates, key=lambda c: float(np.mean([agreement(table, c) for table in others])))
            table = tables[name].set_index("strategy")["v_measure"]
            chosen = tables[name]["strategy"].iloc[int(combined_rank(tables[name], picked).to_numpy().argmin())]
            left_out[f"{name}, {kind}"] = {
                "criteria": picked,
                "spearman": round(agreement(tables[name], picked), 3),
                "chosen": {chosen: round(table[chosen], 3)},
                "best": {table.idxmax(): round(table.max(), 3)},
                "default": {DEFAULT: round(table[DEFAULT], 3)},
                "median": round(table.median(), 3),
            }
            print(f"  {name}: {left_out[f'{name}, {kind}']}")
    print(json.dumps({"mean_spearman": {" + ".join(c): round(means[c], 3) for c in [*singles, *best]}, "left_out": left_out}))


if __name__ == "__main__":
    main()
