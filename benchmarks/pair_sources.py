"""The effect of each kind of pairs: python benchmarks/pair_sources.py --wiki wiki_sentences.txt --labelled a.csv b.csv --save FOLDER.

For each generator, an adapter is trained on the same number of pairs for the same number of steps: once on pairs from Wikipedia sentences,
and once for each labelled file on pairs from its own texts, as a user does who has texts and no labels. V-measure of k-means is taken on
1,000 of the file's texts. Labels only judge. Texts are cut to 64 tokens with their prompt, everywhere. Finished cells, and all
candidates, are kept in FOLDER: the same command resumes an interrupted run.
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
import yaml
from _workload import PROJECT, default_weights

from embedding_adaptation.datasets.adapter import AdapterDataset
from embedding_adaptation.datasets.shards import ShardsDataset
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.clustering_evaluation.scoring import unique_document_scores
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.data_augmentation import nodes
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions
from embedding_adaptation.runtime import load_embedder
from embedding_adaptation.texts.stream import TextStream

KINDS = ("rewrite", "span_pairs", "neighbours", "noise", "identity")
CANDIDATES = {"rewrite": 1.8, "noise": 1.1, "identity": 1.1}  # for each pair that is wanted; the others take all texts
LOWEST_SIMILARITY = 0.3  # of neighbours, of which the most alike are taken
SCORED = 1000
SEEDS = (0, 1, 2)
STRATEGIES = ("prompted_last", "prompted_values")
MAX_LENGTH = 64
HELD_OUT = 64  # pairs for the training's own curve


def options_of(name: str) -> dict[str, Any]:
    """The project's parameters of one pipeline, without references to globals."""
    text = (PROJECT / "conf/base/parameters" / f"{name}.yml").read_text().replace("${globals:seed}", "0")
    return yaml.safe_load(text.replace("${globals:device}", "auto").replace("${globals:dtype}", "auto"))[name]


def augmented(texts: list[str], options: AugmentationOptions, folder: Path, embedder: EmbedderOptions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clean corpus, and its accepted pairs; those already in the folder are reused."""
    weights = default_weights()
    corpus = TextStream.of(pd.DataFrame({"id": [str(row) for row in range(len(texts))], "text": texts}))
    table = nodes.clean_corpus(corpus, options, embedder)[0].table()
    clean = TextStream.of(table)
    candidates, scores = (ShardsDataset(filepath=str(folder / name)) for name in ("candidates", "scores"))
    for shard in nodes.generate_candidates(clean, weights, None, candidates.load(), options, embedder):  # type: ignore[arg-type]
        candidates.save(shard)
    for shard in nodes.score_candidates(clean, candidates.load(), scores.load(), weights, options, embedder):
        scores.save(shard)
    accepted, _, _ = nodes.select_pairs(clean, candidates.load(), scores.load(), weights, options, embedder)
    return table, accepted.table()


def make_pairs(texts: list[str], kind: str, wanted: int, folder: Path, embedder: EmbedderOptions) -> pd.DataFrame:
    """Accepted pairs of one kind, at most as many as wanted: of neighbours the most alike, of others in the order of their keys."""
    parameters = options_of("data_augmentation")
    weight = min(1.0, CANDIDATES[kind] * wanted / len(texts)) if kind in CANDIDATES else 1.0
    changes = {"weight": round(weight, 2)} | ({"min_similarity": LOWEST_SIMILARITY} if kind == "neighbours" else {})
    chosen = dict.fromkeys(parameters["generators"]) | {kind: (parameters["generators"][kind] or {}) | changes}
    options = AugmentationOptions.model_validate(parameters | {"generators": chosen, "cleaning": {"max_texts": None}})
    _, pairs = augmented(texts, options, folder, embedder)
    if kind == "neighbours":
        made = pd.concat(list(ShardsDataset(filepath=str(folder / "candidates")).load().values()))
        similarity = pd.Series(made["own_score"].to_numpy(), index=made["generator"] + ":" + made["key"])
        pairs = pairs.assign(similarity=pairs["pair_id"].map(similarity[~similarity.index.duplicated()])).nlargest(wanted, "similarity")
    return pairs.head(wanted)


def scores_of(
    weights: DecoderWeights, sets: dict[str, pd.DataFrame], embedder_options: EmbedderOptions
) -> dict[str, dict[str, list[float]]]:
    """V-measure by labelled set and strategy, one for each seed of the clustering."""
    embedder = load_embedder(weights, embedder_options)
    strategies = [embedder_options.strategy(name, embedder_options.strategies[name]) for name in STRATEGIES]
    measured: dict[str, dict[str, list[float]]] = {}
    for name, rows in sets.items():
        vectors = embedder.encode_strategies(rows["text"].tolist(), strategies, progress=False)
        texts, labels = rows["text"].tolist(), rows["label"].tolist()
        measured[name] = {strategy: v_measures(matrix, texts, labels) for strategy, matrix in vectors.items()}
    return measured


def v_measures(matrix: np.ndarray, texts: list[str], labels: list[str]) -> list[float]:
    """One for each seed of the clustering."""
    return [unique_document_scores(matrix, texts, labels, seed)["v_measure_unique"] for seed in SEEDS]


def trained_cell(
    kind: str,
    corpus: str,
    seed: int,
    texts: list[str],
    sets: dict[str, pd.DataFrame],
    arguments: argparse.Namespace,
    embedder: EmbedderOptions,
) -> dict[str, Any]:
    """Generate pairs, train on them, and score the adapter."""
    start = time.perf_counter()
    pairs = make_pairs(texts, kind, arguments.pairs, arguments.save / corpus, embedder).sample(frac=1.0, random_state=seed)
    made = time.perf_counter()
    facts = {"kind": kind, "corpus": corpus, "seed": seed, "pairs": len(pairs), "steps": arguments.steps}
    if len(pairs) < HELD_OUT + options_of("contrastive_finetuning")["batch_size"]:
        return facts | {"scores": {}}  # too few for a batch
    # Without dropout the two sides of an identity pair are one vector, and nothing is learned from them.
    lora = options_of("contrastive_finetuning")["lora"] | ({"dropout": 0.1} if kind == "identity" else {}) | {"layers": arguments.layers}
    # The same number of steps for all: none is chosen.
    changes = {"steps": arguments.steps, "seed": seed, "validate_every": arguments.steps, "lora": lora, "stopping": {"criterion": None}}
    tuning = FinetuningOptions.model_validate(options_of("contrastive_finetuning") | changes)
    adapter, _ = train(TrainingJob(default_weights(), pairs.iloc[HELD_OUT:], pairs.head(HELD_OUT), tuning, embedder))
    base = default_weights()
    folder = arguments.save / "adapters" / f"{kind}-{corpus}-{seed}"
    AdapterDataset(filepath=str(folder), base_model=str(base.base)).save(adapter)
    judged = sets if corpus == "wiki" else {corpus: sets[corpus]}
    cell = facts | {
        "scores": scores_of(DecoderWeights(base.base, base.card, adapter=folder), judged, embedder),
        "seconds": {"pairs": round(made - start), "training and scoring": round(time.perf_counter() - made)},
    }  # fmt: skip
    if kind == "neighbours" and corpus != "wiki":
        rows = pd.read_csv(next(path for path in arguments.labelled if path.stem == corpus))
        known = {" ".join(text.split()): label for text, label in zip(rows["text"], rows["label"], strict=True)}
        alike = [known.get(one) == known.get(other) for one, other in zip(pairs["source_text"], pairs["generated_text"], strict=True)]
        cell["pairs_of_one_label"] = round(float(np.mean(alike)), 3)
    return cell


def main() -> None:
    """Measure the cells that are missing, then print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wiki", type=Path, required=True)
    parser.add_argument("--labelled", type=Path, nargs="+", required=True)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--corpora", nargs="+", choices=("wiki", "own"), default=["wiki", "own"])
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--texts", type=int, default=4000, help="texts of a corpus that pairs are made from, at most")
    parser.add_argument("--steps", type=int, default=23)
    parser.add_argument("--layers", default="all", help="adapted layers: all, upper_half, upper_third")
    parser.add_argument("--pairs-only", action="store_true", help="make the pairs, and train on none")
    parser.add_argument("--training-seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    embedder = EmbedderOptions.model_validate(options_of("embedder") | {"max_length": MAX_LENGTH})
    sets, corpora = {}, {"wiki": arguments.wiki.read_text(encoding="utf-8").splitlines()[: arguments.texts]}
    for path in arguments.labelled:
        rows = pd.read_csv(path).drop_duplicates("text").sample(frac=1.0, random_state=0)
        sets[path.stem], corpora[path.stem] = rows.head(SCORED), rows["text"].head(arguments.texts).tolist()
    results = arguments.save / "results.jsonl"
    arguments.save.mkdir(parents=True, exist_ok=True)
    if arguments.pairs_only:
        for kind in arguments.kinds:
            for name, texts in corpora.items():
                start = time.perf_counter()
                made = make_pairs(texts, kind, arguments.pairs, arguments.save / name, embedder)
                print(f"{kind} of {name}: {len(made)} pairs in {time.perf_counter() - start:.0f} s", flush=True)
        return
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    def keep(cell: dict[str, Any]) -> None:
        done.append(cell)
        with results.open("a") as file:
            file.write(json.dumps(cell) + "\n")

    def is_done(kind: str, corpus: str, seed: int) -> bool:
        return any((cell["kind"], cell["corpus"], cell["seed"]) == (kind, corpus, seed) for cell in done)

    if not is_done("none", "none", 0):
        keep({"kind": "none", "corpus": "none", "seed": 0, "pairs": 0, "scores": scores_of(default_weights(), sets, embedder)})
    names = [name for name in corpora if name == "wiki" or "own" in arguments.corpora]
    for seed in arguments.training_seeds:
        for kind in arguments.kinds:
            for corpus in (name for name in names if name != "wiki" or "wiki" in arguments.corpora):
                if is_done(kind, corpus, seed):
                    continue
                cell = trained_cell(kind, corpus, seed, corpora[corpus], sets, arguments, embedder)
                keep(cell)
                print(json.dumps(cell), flush=True)
    print_table(done)


def print_table(cells: list[dict[str, Any]]) -> None:
    """V-measure by kind, corpus and labelled set: mean and standard deviation over training seeds and clusterings."""
    rows = [
        {"kind": cell["kind"], "corpus": "wiki" if cell["corpus"] == "wiki" else "none" if cell["kind"] == "none" else "own",
         "strategy": strategy, "set": name, "pairs": cell["pairs"], "v_measure": value}
        for cell in cells for name, scores in cell["scores"].items() for strategy, values in scores.items() for value in values
    ]  # fmt: skip
    table = pd.DataFrame(rows).groupby(["strategy", "corpus", "kind", "set"], sort=False)["v_measure"].agg(["mean", "std"]).reset_index()
    table["shown"] = [f"{mean:.3f} ±{deviation:.3f}" for mean, deviation in zip(table["mean"], table["std"], strict=True)]
    print(table.pivot_table(index=["strategy", "corpus", "kind"], columns="set", values="shown", aggfunc="first", sort=False).to_string())


if __name__ == "__main__":
    main()
