"""The gain from adaptation, and when to stop: python benchmarks/quality.py --wiki wiki_sentences.txt --labelled a.csv b.csv --save FOLDER.

For each seed of the training, an adapter is trained with the default recipe on the default pairs: of Wikipedia sentences, and for each
labelled file of its own texts without their labels. Training does not end early; at every checkpoint V-measure is taken, for judging
only. So one run tells what the stopping rule has chosen, what it lost against the best step, and what any other criterion would have
chosen. Beside it stand the unadapted strategies and, with --minilm FOLDER, a trained embedding model. Finished cells are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _workload import default_weights
from pair_sources import STRATEGIES, augmented, options_of, v_measures
from pair_sources import scores_of as scores_by_seed

from embedding_adaptation.datasets.adapter import AdapterDataset
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
from embedding_adaptation.pipelines.contrastive_finetuning.judging import CRITERIA, best_step
from embedding_adaptation.pipelines.contrastive_finetuning.lora import load_adapter
from embedding_adaptation.pipelines.contrastive_finetuning.nodes import split_pairs
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions


def pairs_of(
    texts: list[str], folder: Path, embedder: EmbedderOptions, generators: list[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clean corpus, and accepted pairs of the default sources, or of some of them."""
    parameters = options_of("data_augmentation")
    if generators:
        parameters["generators"] = {name: value for name, value in parameters["generators"].items() if name in generators}
    options = AugmentationOptions.model_validate(parameters)
    return augmented(texts, options, folder, embedder)


def scores_of(weights: DecoderWeights, sets: dict[str, pd.DataFrame], embedder: EmbedderOptions) -> dict[str, dict[str, float]]:
    """Mean V-measure over clusterings, by labelled set and strategy."""
    by_seed = scores_by_seed(weights, sets, embedder)
    return {name: {strategy: float(np.mean(values)) for strategy, values in found.items()} for name, found in by_seed.items()}


def trained_cell(
    corpus: str,
    seed: int,
    clean: pd.DataFrame,
    pairs: pd.DataFrame,
    sets: dict[str, pd.DataFrame],
    arguments: argparse.Namespace,
    embedder: EmbedderOptions,
) -> dict[str, Any]:
    """Train once, and score every checkpoint, or the one that the default rule chooses."""
    recipe = options_of("contrastive_finetuning")
    changes = {"seed": seed, "stopping": recipe["stopping"] | {"criterion": None}}
    if arguments.steps:
        changes |= {"steps": arguments.steps}
    tuning = FinetuningOptions.model_validate(recipe | changes)
    training, held_out = split_pairs(pairs, tuning)
    start = time.perf_counter()
    folder = arguments.save / "checkpoints" / f"{corpus}-{seed}"
    adapter, history = train(TrainingJob(default_weights(), training, held_out, tuning, embedder, clean, folder))
    seconds = time.perf_counter() - start
    base = default_weights()
    judged = sets if corpus == "wiki" else {corpus: sets[corpus]}
    by_step: dict[int, Any] = {}
    records = json.loads(history.to_json(orient="records"))
    chosen = best_step(measured_only(records), recipe["stopping"]["criterion"])
    for checkpoint in sorted(folder.glob("*/*/step-*")):
        step = int(checkpoint.name.rpartition("-")[2])
        if arguments.chosen_only and step != chosen:
            continue
        place = arguments.save / "adapters" / f"{corpus}-{seed}-{checkpoint.name}"
        load_adapter(adapter.model, checkpoint)
        AdapterDataset(filepath=str(place), base_model=str(base.base)).save(adapter)
        by_step[step] = scores_of(DecoderWeights(base.base, base.card, adapter=place), judged, embedder)
    return {
        "corpus": corpus, "seed": seed, "pairs": len(pairs), "history": records, "scores": by_step, "chosen_only": arguments.chosen_only,
        "seconds": seconds,
    }  # fmt: skip


def measured_only(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with null instead of NaN, which JSON does not have."""
    return [{key: value for key, value in row.items() if value is not None} for row in history]


def minilm_scores(folder: Path, sets: dict[str, pd.DataFrame]) -> dict[str, float]:
    """V-measure of a sentence-transformers model."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return {
        name: float(np.mean(v_measures(model.encode(rows["text"].tolist()), rows["text"].tolist(), rows["label"].tolist())))
        for name, rows in sets.items()
    }


def main() -> None:
    """Measure the cells that are missing, then print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wiki", type=Path, required=True)
    parser.add_argument("--labelled", type=Path, nargs="+", required=True)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, help="folder of a sentence-transformers model to compare with")
    parser.add_argument("--corpora", nargs="+", choices=("wiki", "own"), default=["own", "wiki"])
    parser.add_argument("--pairs-only", action="store_true", help="make the pairs, and train on none")
    parser.add_argument("--chosen-only", action="store_true", help="judge only the step that the default rule chooses, so without regret")
    parser.add_argument("--scored", type=int, default=1000, help="texts of a labelled set that are clustered, at most")
    parser.add_argument("--steps", type=int, help="steps to look at; the recipe's otherwise")
    parser.add_argument("--max-length", type=int, help="tokens of a text with its prompt; the recipe's otherwise")
    parser.add_argument("--pairs-max-length", type=int, help="tokens of a text where pairs are made; --max-length otherwise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    recipe = options_of("embedder")
    length = arguments.max_length or recipe["max_length"]
    embedder, pairs_embedder = (
        EmbedderOptions.model_validate(recipe | {"max_length": tokens}) for tokens in (length, arguments.pairs_max_length or length)
    )
    sets, corpora = {}, {}
    for path in arguments.labelled:
        rows = pd.read_csv(path).drop_duplicates("text").sample(frac=1.0, random_state=0)
        sets[path.stem] = rows.head(arguments.scored)
        if "own" in arguments.corpora:
            corpora[path.stem] = rows["text"].tolist()
    if "wiki" in arguments.corpora:
        corpora["wiki"] = arguments.wiki.read_text(encoding="utf-8").splitlines()
    arguments.save.mkdir(parents=True, exist_ok=True)
    results = arguments.save / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    def keep(cell: dict[str, Any]) -> None:
        done.append(json.loads(json.dumps(cell)))
        with results.open("a") as file:
            file.write(json.dumps(cell) + "\n")

    if arguments.pairs_only:
        for corpus, texts in corpora.items():
            start = time.perf_counter()
            _, pairs = pairs_of(texts, arguments.save / "pairs" / corpus, pairs_embedder)
            print(f"{corpus}: {pairs['generator'].value_counts().to_dict()} in {time.perf_counter() - start:.0f} s", flush=True)
        return
    if unjudged := without_scores(done, "none", sets):
        keep({"corpus": "none", "scores": scores_of(default_weights(), unjudged, embedder)})
    if arguments.minilm and (unjudged := without_scores(done, "minilm", sets)):
        keep({"corpus": "minilm", "scores": minilm_scores(arguments.minilm, unjudged)})
    for seed in arguments.seeds:
        for corpus, texts in corpora.items():
            if not any((cell["corpus"], cell.get("seed")) == (corpus, seed) for cell in done):
                clean, pairs = pairs_of(texts, arguments.save / "pairs" / corpus, pairs_embedder)
                keep(trained_cell(corpus, seed, clean, pairs, sets, arguments, embedder))
                print(f"{corpus}, seed {seed}: done", flush=True)
    show(done)


def untrained_scores(cells: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Scores of models not trained here, by labelled set."""
    return {task: score for cell in cells if cell["corpus"] == name for task, score in cell["scores"].items()}


def without_scores(cells: list[dict[str, Any]], name: str, sets: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Labelled sets it has not been scored on yet."""
    return {task: rows for task, rows in sets.items() if task not in untrained_scores(cells, name)}


def show(cells: list[dict[str, Any]]) -> None:
    """The step that the rule chose, and the regret of every criterion."""
    rule = options_of("contrastive_finetuning")["stopping"]["criterion"]
    base = untrained_scores(cells, "none")
    rows, regrets = [], []
    for name, value in untrained_scores(cells, "minilm").items():
        rows.append({"weights": "all-MiniLM-L6-v2", "strategy": "", "set": name, "v": value})
    for name in base:
        rows += [{"weights": "unadapted", "strategy": strategy, "set": name, "v": base[name][strategy]} for strategy in STRATEGIES]
    for cell in cells:
        if cell["corpus"] in {"none", "minilm"}:
            continue
        history = measured_only(cell["history"])
        for name in next(iter(cell["scores"].values())):
            for strategy in STRATEGIES:
                by_step = {0: base[name][strategy]} | {int(step): scores[name][strategy] for step, scores in cell["scores"].items()}
                best = max(by_step.values())
                kind = "wiki" if cell["corpus"] == "wiki" else "own texts"
                for criterion in (*CRITERIA, None):
                    step = best_step(history, criterion)
                    found = by_step.get(step, float("nan"))
                    if not cell.get("chosen_only"):
                        regrets.append({"criterion": criterion or "last step", "strategy": strategy, "set": name, "corpus": kind,
                                        "step": step, "regret": best - found})  # fmt: skip
                    if criterion == rule:
                        rows.append({"weights": f"adapted on {kind}", "strategy": strategy, "set": name, "v": found})
    table = pd.DataFrame(rows).groupby(["weights", "strategy", "set"], sort=False)["v"].agg(["mean", "std"]).reset_index()
    table["shown"] = [f"{mean:.3f} ±{deviation:.3f}" for mean, deviation in zip(table["mean"], table["std"].fillna(0), strict=True)]
    wide = table.pivot_table(index=["strategy", "weights"], columns="set", values="shown", aggfunc="first", sort=False)
    print(wide.assign(mean=table.groupby(["strategy", "weights"], sort=False)["mean"].mean().round(3)).to_string())
    if regrets:
        frame = pd.DataFrame(regrets)
        print(frame.pivot_table(index="criterion", columns=["strategy", "corpus"], values=["regret", "step"]).round(3).to_string())


if __name__ == "__main__":
    main()
