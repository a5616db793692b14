"""Which recipe trains best, by criteria without labels: python benchmarks/recipes.py --texts FILE --save FOLDER.

The default pairs of one corpus are made once and some are held out; an adapter is trained by each recipe, and looked at every four steps.
The recipes are compared at the same step, and after the same time, by the loss and accuracy of the held-out pairs, and by how far
a text's neighbours agree with those under the base model's attention values. No label is read.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path

import pandas as pd
from _workload import PROJECT, default_weights
from pair_sources import options_of
from quality import pairs_of

from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
from embedding_adaptation.pipelines.contrastive_finetuning.nodes import split_pairs
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

RECIPES = {
    "all layers": {"lora": {"layers": "all"}},
    "upper half": {"lora": {"layers": "upper_half"}},
    "upper third": {"lora": {"layers": "upper_third"}},
    "upper half, twice the learning rate": {"lora": {"layers": "upper_half"}, "learning_rate": 4.0e-4},
}
SHOWN = ("validation_loss", "validation_accuracy", "neighbour_agreement", "seconds")


def main() -> None:
    """Train the missing recipes, then print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=PROJECT / "data/01_raw/hard_corpus.txt")
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--max-length", type=int, help="tokens of a text with its prompt; the default otherwise")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--generators", nargs="+", help="take only these of the default generators")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    changed = {"max_length": arguments.max_length} if arguments.max_length else {}
    embedder = EmbedderOptions.model_validate(options_of("embedder") | changed)
    texts = arguments.texts.read_text(encoding="utf-8").splitlines()
    corpus, pairs = pairs_of(texts, arguments.save / "pairs", embedder, arguments.generators)
    arguments.save.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in arguments.recipes:
        kept = arguments.save / f"{name.replace(' ', '_')}.json"
        if not kept.exists():
            recipe = options_of("contrastive_finetuning")
            changes = {"steps": arguments.steps, "validate_every": 4, "stopping": recipe["stopping"] | {"criterion": None}}
            recipe |= changes | RECIPES[name] | {"lora": recipe["lora"] | RECIPES[name]["lora"]}
            options = FinetuningOptions.model_validate(recipe)
            training, held_out = split_pairs(pairs, options)
            _, history = train(TrainingJob(default_weights(), training, held_out, options, embedder, corpus))
            kept.write_text(history.to_json(orient="records"))
        looks = [row for row in json.loads(kept.read_text()) if row["validation_loss"] is not None]
        rows += [{"recipe": name, "step": row["step"]} | {shown: row[shown] for shown in SHOWN} for row in looks]
    table = pd.DataFrame(rows).astype({"seconds": float}).fillna({"seconds": 0.0})
    print(f"{len(pairs)} pairs of {len(corpus)} texts")
    print(table.pivot_table(index="step", columns="recipe", values=list(SHOWN), sort=False).round(3).to_string())
    limit = table.groupby("recipe")["seconds"].max().min()
    print(f"\nLast look within {limit:.0f} s:")
    within = table[table["seconds"] <= limit + 1e-6].groupby("recipe", sort=False).tail(1)
    print(within.set_index("recipe").round(3).to_string())


if __name__ == "__main__":
    main()
