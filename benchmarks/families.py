"""Which family of templates: a ranking without labels beside V-measure: python benchmarks/families.py FILE [FILE ...].

Each FILE is a labelled set with columns ``text`` and ``label``. The families of ``strategy_selection`` are ranked on its texts alone, by
what each of the two judges sees (words that texts share, and templates of no family); the labels only judge the judges: by Spearman's
correlation with V-measure, and by the V-measure lost by taking the first in rank.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from _workload import PROJECT, default_weights
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import v_measure_score

from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.strategy_selection.families import family_table, family_vectors
from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions
from embedding_adaptation.pipelines.strategy_selection.selection import draw_texts
from embedding_adaptation.runtime import load_embedder

SEEDS = range(5)
JUDGES = ("word_agreement", "template_agreement")
CHUNK = 512


def parameters(name: str) -> dict[str, object]:
    """The options of this name in conf/base."""
    values: dict[str, object] = yaml.safe_load((PROJECT / f"conf/base/parameters/{name}.yml").read_text())[name]
    return values


def measured(path: Path, texts: int, embedder_options: EmbedderOptions, selection: SelectionOptions) -> pd.DataFrame:
    """The table of families on one file, with the V-measure of each strategy and its standard deviation over seeds."""
    labelled = pd.read_csv(path).drop_duplicates("text")
    labelled["text"] = labelled["text"].astype(str)
    drawn = draw_texts(labelled["text"].tolist(), texts, seed=0)
    labels = labelled.set_index("text")["label"].loc[drawn].tolist()
    start = time.perf_counter()
    vectors = family_vectors(load_embedder(default_weights(), embedder_options), drawn, selection, embedder_options)
    encoded = time.perf_counter()
    table = family_table(vectors, drawn, selection)
    print(f"{path.stem}: {len(drawn)} texts, {encoded - start:.0f} s to embed, {time.perf_counter() - encoded:.0f} s to rank", flush=True)
    count = len(set(labels))
    scores = {
        name: [
            v_measure_score(labels, MiniBatchKMeans(count, batch_size=CHUNK, n_init=1, random_state=seed).fit_predict(matrix))
            for seed in SEEDS
        ]
        for name, matrix in vectors.candidates.items()
    }
    table["v_measure"] = [float(np.mean(scores[name])) for name in table["strategy"]]
    table["v_std"] = [float(np.std(scores[name], ddof=1)) for name in table["strategy"]]
    return table


def main() -> None:
    """Measure every file, then compare the judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--max-length", type=int, default=256, help="tokens of the longest sequence")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    embedder = parameters("embedder") | {"device": "auto", "dtype": "float32", "max_length": arguments.max_length}
    embedder_options = EmbedderOptions.model_validate(embedder)
    selection = SelectionOptions.model_validate(parameters("strategy_selection") | {"seed": 0})
    tables = {path.stem: measured(path, arguments.texts, embedder_options, selection) for path in arguments.files}
    summary = {}
    for name, table in tables.items():
        print(f"\n{name}\n{table.drop(columns=['templates', 'layers', 'after']).round(3).to_string(index=False)}")
        summary[name] = {
            judge: {
                "spearman": round(float(table[judge].corr(table["v_measure"], method="spearman")), 2),
                "chosen": table.loc[table[judge].idxmax(), "strategy"],
                "lost": round(float(table["v_measure"].max() - table.loc[table[judge].idxmax(), "v_measure"]), 3),
            }
            for judge in JUDGES
        } | {"v_measure": table.set_index("strategy")["v_measure"].round(3).to_dict()}
    means = pd.DataFrame({name: table.set_index("strategy")["v_measure"] for name, table in tables.items()}).mean(axis=1)
    print(json.dumps({"sets": summary, "mean_v_measure": means.sort_values(ascending=False).round(3).to_dict()}))


if __name__ == "__main__":
    main()
