"""One training step (GradCache, forward and backward) in the ways it could be done: python benchmarks/training_step.py."""

from __future__ import annotations

import logging
import warnings

import torch
from _workload import ONE_WORD, default_weights, median_seconds, report, sample_texts

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.contrastive_finetuning.training import _collator, add_adapter

PAIRS = 32
FUSED = "fused attention, data's order, no dropout"
CHOSEN = "plain attention, sorted, no dropout (chosen)"


def main() -> None:
    """Measure the same pairs, template, adapter and chunk size throughout."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    texts = sample_texts(2 * PAIRS)
    rows = [{"anchor": a, "positive": p} for a, p in zip(texts[:PAIRS], texts[PAIRS:], strict=True)]
    seconds, tokens = {}, 0
    for name, attention, ordered, dropout, dtype in (
        (FUSED, "sdpa", False, 0.0, "auto"),
        ("fused attention, sorted, no dropout", "sdpa", True, 0.0, "auto"),
        ("plain attention, data's order, no dropout", "eager", False, 0.0, "auto"),
        (CHOSEN, "eager", True, 0.0, "auto"),
        ("plain attention, sorted, dropout 0.05", "eager", True, 0.05, "auto"),
        ("plain attention, sorted, no dropout, float32", "eager", True, 0.0, "float32"),
    ):
        embedder = Embedder.load(default_weights(), device="cpu", dtype=dtype)
        options = FinetuningOptions.model_validate({"steps": 1, "seed": 0, "lora": {"dropout": dropout}})
        add_adapter(embedder, options)
        embedder.backbone.set_attn_implementation(attention)
        embedder.backbone.train()
        model = embedder.sentence_transformer(Strategy("prompted", ONE_WORD, "last"))
        collator = _collator(model)
        batch = collator(rows) if ordered else super(type(collator), collator).__call__(rows)
        columns = [{k.removeprefix(f"{c}_"): v for k, v in batch.items() if k.startswith(c)} for c in ("anchor", "positive")]
        tokens = sum(int(column["attention_mask"].sum()) for column in columns)
        loss = CachedMultipleNegativesRankingLoss(model, scale=20.0, mini_batch_num_tokens=options.chunk_tokens)

        def step(loss: torch.nn.Module = loss, columns: list[dict[str, torch.Tensor]] = columns) -> None:
            loss([dict(column) for column in columns], None).backward()

        seconds[name] = median_seconds(step)
    report(f"Training step, {PAIRS} pairs, {tokens} tokens, {torch.get_num_threads()} threads", FUSED, seconds, tokens, "tokens")


if __name__ == "__main__":
    main()
