"""Encoding with several token budgets and number formats: python benchmarks/encoding.py."""

from __future__ import annotations

import logging
import warnings

import torch
from _workload import ONE_WORD, default_weights, median_seconds, report, sample_texts

from embedding_adaptation.embedder.embedder import Embedder, Strategy

TEXTS = 160
BASELINE = "bfloat16, 4096 tokens a batch"


def main() -> None:
    """Measure the same texts and template throughout."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    texts, strategy = sample_texts(TEXTS), Strategy("prompted", ONE_WORD, "last")
    seconds, tokens = {}, 0
    for dtype, budget in (("bfloat16", 4096), ("bfloat16", 2048), ("bfloat16", 1024), ("bfloat16", 512), ("float32", 1024)):
        embedder = Embedder.load(default_weights(), device="cpu", dtype=dtype, batch_tokens=budget)
        tokens = sum(map(len, embedder.decoder(ONE_WORD).tokenize_prompts(texts)))
        seconds[f"{dtype}, {budget} tokens a batch"] = median_seconds(lambda e=embedder: e.encode(texts, [strategy], progress=False))
    report(f"Encoding {TEXTS} texts, {tokens} tokens, {torch.get_num_threads()} threads", BASELINE, seconds, tokens, "tokens")


if __name__ == "__main__":
    main()
