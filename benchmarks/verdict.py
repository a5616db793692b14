"""How often the verdict without labels is right: python benchmarks/verdict.py --labelled a.csv b.csv c.csv --save FOLDER.

Adapters are trained on many corpora (benchmarks/_corpora.py) with good and harmful recipes. The verdict from what training measured,
and the decision of a simulated person who answers by the labels, are compared with the change of V-measure (k-means, five seeds) under
the trained strategy. A verdict is wrong if it says better or worse and V-measure says the reverse, or if it says that there is no
difference and V-measure changes by more than 0.03. Finished cells are kept in FOLDER, each with the vectors it was judged by; the last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _corpora import built
from _workload import default_weights
from pair_sources import options_of
from sklearn.metrics import v_measure_score

from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.clustering_evaluation.agreement import cluster_vectors
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.runtime import base_weights, build_strategy, load_embedder, teacher_targets
from embedding_adaptation.vectors.neighbours import mutual_neighbours
from embedding_adaptation.verdict.judging import sequential_decision, verdict_by_agreement
from embedding_adaptation.verdict.options import VerdictOptions
from embedding_adaptation.verdict.questions import disagreements

KMEANS_SEEDS = range(5)
SAME = 0.03  # a larger change of V-measure is a difference
COLUMNS = ["source_id", "other_id", "source_text", "generated_text", "generator"]
LAST_STEP = {"criterion": None, "reference": None}
# The default; InfoNCE on neighbours; the same at ten times the learning rate, and on random pairs, which teach the wrong thing.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "info_nce": {"loss": "info_nce"},
    "hot": {"loss": "info_nce", "learning_rate": 2e-3, "stopping": LAST_STEP},
    "random pairs": {"loss": "info_nce", "learning_rate": 5e-4, "stopping": LAST_STEP},
}


def v_measure(vectors: np.ndarray, labels: list[str]) -> float:
    """Mean over the seeds of k-means."""
    return float(np.mean([v_measure_score(labels, cluster_vectors(vectors, len(set(labels)), seed)) for seed in KMEANS_SEEDS]))


def pairs_for(recipe: str, texts: list[str], options: EmbedderOptions, seed: int) -> pd.DataFrame:
    """Training pairs: none for the default, mutual neighbours under the teacher, or random ones."""
    if recipe == "default":
        return pd.DataFrame({name: [] for name in COLUMNS}, dtype=str)
    if recipe == "random pairs":
        others = np.random.default_rng(seed).permutation(len(texts)).tolist()
        links = list(zip(range(len(texts)), others, strict=True))
    else:
        teacher = teacher_targets(load_embedder(default_weights(), options), texts, options, progress=False)
        found = mutual_neighbours(teacher, texts, neighbours=5, min_similarity=-1.0, near_duplicate=0.9, max_pairs_per_text=3)
        links = [(one, other) for one, other, _ in found]
    rows = [(str(one), str(other), texts[one], texts[other], "neighbours") for one, other in links]
    return pd.DataFrame(rows, columns=COLUMNS)


def cell_of(name: str, recipe: str, rows: pd.DataFrame, seed: int, options: EmbedderOptions, folder: Path) -> dict[str, Any]:
    """Train, and keep the measures, the vectors and the truth."""
    texts, labels = rows["text"].tolist(), rows["label"].tolist()
    pairs = pairs_for(recipe, texts, options, seed)
    held_out = pairs.sample(frac=0.1, random_state=seed) if len(pairs) else pairs
    changes = RECIPES[recipe] | {"seed": seed}
    if len(pairs):
        changes["batch_size"] = min(96, int(0.5 * len(pairs)))
    recipe_options = FinetuningOptions.model_validate(options_of("contrastive_finetuning") | changes)
    corpus = pd.DataFrame({"id": [str(row) for row in range(len(texts))], "text": texts})
    job = TrainingJob(default_weights(), pairs.drop(held_out.index), held_out, recipe_options, options, corpus)
    adapter, _ = train(job)
    embedder, strategy = load_embedder(default_weights(), options), build_strategy(options.adapt, options)
    embedder.backbone = adapter.model
    adapted = embedder.encode(texts, strategy, progress=False)
    with base_weights(embedder):
        base = embedder.encode(texts, strategy, progress=False)
    file = f"{name}-{recipe}-{seed}.npz".replace(" ", "_").replace(",", "")
    np.savez_compressed(folder / file, base=base.astype(np.float16), adapted=adapted.astype(np.float16))
    before, after = v_measure(base, labels), v_measure(adapted, labels)
    return {"set": name, "recipe": recipe, "seed": seed, "vectors": file, "scales": list(adapter.scales), "before": before, "after": after}


def judged(cell: dict[str, Any], rows: pd.DataFrame, folder: Path, options: VerdictOptions) -> dict[str, Any]:
    """The verdicts on a cell, and whether they are right."""
    change = cell["after"] - cell["before"]
    verdict = verdict_by_agreement(cell["scales"], options)
    wrong = {"better": change <= 0, "worse": change >= 0, "no_difference": abs(change) > SAME}.get(verdict, False)
    if cell["scales"] and next(row["scale"] for row in cell["scales"] if row["chosen"]) == 0:
        wrong = False  # training was taken back: nothing has changed
    kinds = dict(zip(rows["text"], rows["label"], strict=True))
    asked = options.questions
    with np.load(folder / cell["vectors"]) as stored:
        base, adapted = (stored[side].astype(np.float32) for side in ("base", "adapted"))
    drawn = np.random.default_rng(options.seed).permutation(len(rows))[: asked.texts]
    texts = rows["text"].to_numpy()[drawn].tolist()
    questions = disagreements(texts, base[drawn], adapted[drawn], count=asked.count, among=asked.among, seed=options.seed)
    answers: list[str] = []
    for question in questions:
        same = [kinds[other] == kinds[question.text] for other in (question.first, question.second)]
        answers.append(question.side("neither" if same[0] == same[1] else "first" if same[0] else "second"))
        if sequential_decision(answers, asked) is not None:
            break
    side = sequential_decision(answers, asked)
    return {
        "set": cell["set"],
        "recipe": cell["recipe"],
        "change": change,
        "verdict": verdict,
        "wrong": bool(wrong),
        "kept": next((row["scale"] for row in cell["scales"] if row["chosen"]), 1.0),
        "answers": side or "undecided",
        "questions": len(answers),
        "wrong_answers": side is not None and (side == "adapted") != (change > 0) and change != 0,
    }


def main() -> None:
    """Train the cells that are missing, then judge all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labelled", type=Path, nargs="+", required=True)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--max-length", type=int, default=64, help="tokens of a text with its prompt")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    embedder_options = EmbedderOptions.model_validate(options_of("embedder") | {"max_length": arguments.max_length})
    arguments.save.mkdir(parents=True, exist_ok=True)
    results = arguments.save / "results.jsonl"
    cells = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(cell["set"], cell["recipe"], cell["seed"]) for cell in cells}
    table = []
    for draw in arguments.draws:
        for name, rows in built(arguments.labelled, draw, arguments.texts).items():
            for recipe in arguments.recipes:
                if (name, recipe, draw) not in done:
                    cells.append(cell_of(name, recipe, rows, draw, embedder_options, arguments.save))
                    with results.open("a") as file:
                        file.write(json.dumps(cells[-1]) + "\n")
                cell = next(cell for cell in cells if (cell["set"], cell["recipe"], cell["seed"]) == (name, recipe, draw))
                table.append(judged(cell, rows, arguments.save, VerdictOptions()))
                print(json.dumps(table[-1]), flush=True)
    judgements = pd.DataFrame(table)
    speaks, decided = judgements["verdict"] != "cannot_tell", judgements["answers"] != "undecided"
    print(judgements.groupby(["recipe", "verdict"])["change"].agg(["count", "mean", "min", "max"]).round(3).to_string())
    print(
        json.dumps(
            {
                "trainings": len(judgements),
                "verdict": {
                    "silent": round(float(1 - speaks.mean()), 3),
                    "wrong": int(judgements["wrong"].sum()),
                    "speaks": int(speaks.sum()),
                },
                "questions": {
                    "undecided": round(float(1 - decided.mean()), 3),
                    "wrong": int(judgements["wrong_answers"].sum()),
                    "decided": int(decided.sum()),
                    "median": float(judgements["questions"].median()),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
