"""What a user gets who has texts and no labels: python benchmarks/shipped.py --labelled a.csv b.csv --save FOLDER.

For each labelled file and seed, the default recipe learns from the file's texts without their labels: the base model's teacher,
fine-tuning with the consensus loss, and the heads of the default strategies. V-measure of k-means (five seeds) of these texts judges
what is exported for sentence-transformers (`exported`), what users of this package get (`package`), and what both were before. Beside
them stand TF-IDF and, with --minilm FOLDER, a trained embedding model. Finished cells are kept in FOLDER. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _workload import default_weights
from pair_sources import options_of

from embedding_adaptation.datasets.adapter import AdapterDataset
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.clustering_evaluation.scoring import unique_document_scores
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.runtime import fitted_strategies, load_embedder
from embedding_adaptation.vectors.words import tfidf_vectors

KMEANS_SEEDS = range(5)
EXPORTED, PACKAGE = "distilled_last_adapted", "distilled_consensus_adapted"
BASE = ("prompted_last", "prompted_values", "consensus", "distilled_last", "distilled_consensus")
ADAPTED = ("prompted_last_adapted", "prompted_values_adapted", "consensus_adapted", EXPORTED, PACKAGE)
NO_PAIRS = pd.DataFrame({"source_id": [], "source_text": [], "generated_text": [], "generator": []}, dtype=str)


def v_measure(vectors: np.ndarray, rows: pd.DataFrame) -> float:
    """Mean over the seeds of k-means."""
    texts, labels = rows["text"].tolist(), rows["label"].tolist()
    return float(np.mean([unique_document_scores(vectors, texts, labels, seed)["v_measure_unique"] for seed in KMEANS_SEEDS]))


def scores_of(weights: DecoderWeights, names: tuple[str, ...], rows: pd.DataFrame, options: EmbedderOptions) -> dict[str, float]:
    """V-measure by strategy; after-processing is fitted on the same texts."""
    embedder = load_embedder(weights, options)
    texts = rows["text"].tolist()
    strategies = fitted_strategies(embedder, {name: options.every_strategy[name] for name in names}, options, lambda: texts)
    return {name: v_measure(vectors, rows) for name, vectors in embedder.encode_strategies(texts, strategies, progress=False).items()}


def trained_cell(name: str, seed: int, rows: pd.DataFrame, folder: Path, options: EmbedderOptions) -> dict[str, Any]:
    """Train on the texts, and score the adapted strategies."""
    recipe = FinetuningOptions.model_validate(options_of("contrastive_finetuning") | {"seed": seed})
    corpus = pd.DataFrame({"id": [str(row) for row in range(len(rows))], "text": rows["text"].tolist()})
    start = time.perf_counter()
    job = TrainingJob(default_weights(), NO_PAIRS, NO_PAIRS, recipe, options, corpus, folder / "checkpoints" / f"{name}-{seed}")
    adapter, _ = train(job)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB on Linux
    base, place = default_weights(), folder / "adapters" / f"{name}-{seed}"
    AdapterDataset(filepath=str(place), base_model=str(base.base)).save(adapter)
    scores = scores_of(DecoderWeights(base.base, base.card, adapter=place), ADAPTED, rows, options)
    return {"set": name, "seed": seed, "texts": len(rows), "seconds": seconds, "peak_gb": peak, "step": adapter.steps, "scores": scores}


def main() -> None:
    """Measure the cells that are missing, then print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labelled", type=Path, nargs="+", required=True)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, help="folder of a sentence-transformers model to compare with")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-length", type=int, help="tokens of a text with its prompt; the recipe's otherwise")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    recipe = options_of("embedder")
    options = EmbedderOptions.model_validate(recipe | {"max_length": arguments.max_length or recipe["max_length"]})
    arguments.save.mkdir(parents=True, exist_ok=True)
    results = arguments.save / "results.jsonl"
    cells = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    def keep(cell: dict[str, Any]) -> None:
        cells.append(cell)
        with results.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        print(json.dumps(cell), flush=True)

    for seed in arguments.seeds:
        for path in arguments.labelled:
            rows = pd.read_csv(path).drop_duplicates("text").sample(frac=1.0, random_state=0).head(arguments.texts)
            if not any((cell["set"], cell["seed"]) == (path.stem, None) for cell in cells):
                scores = scores_of(default_weights(), BASE, rows, options)
                scores["tfidf"] = v_measure(tfidf_vectors(rows["text"].tolist(), 256, 0), rows)
                if arguments.minilm:
                    from sentence_transformers import SentenceTransformer

                    scores["minilm"] = v_measure(
                        SentenceTransformer(str(arguments.minilm), device="cpu").encode(rows["text"].tolist()), rows
                    )
                keep({"set": path.stem, "seed": None, "scores": scores})
            if not any((cell["set"], cell["seed"]) == (path.stem, seed) for cell in cells):
                keep(trained_cell(path.stem, seed, rows, arguments.save, options))
    table = pd.DataFrame([{"set": cell["set"], "strategy": name, "v": v} for cell in cells for name, v in cell["scores"].items()])
    means = table.groupby(["strategy", "set"], sort=False)["v"].agg(["mean", "std", "count"])
    print(means.round(3).to_string())
    wide = table.pivot_table(index="strategy", columns="set", values="v", sort=False)

    def of(strategy: str) -> dict[str, float] | None:
        if strategy not in wide.index:
            return None
        return {name: round(float(value), 4) for name, value in wide.loc[strategy].items()} | {
            "mean": round(float(wide.loc[strategy].mean()), 4)
        }

    print(
        json.dumps({"exported": of(EXPORTED), "package": of(PACKAGE), "minilm": of("minilm"), "minilm_adapted": None, "tfidf": of("tfidf")})
    )


if __name__ == "__main__":
    main()
