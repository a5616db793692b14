"""Pairs per second and memory of fine-tuning: python benchmarks/train.py --texts wiki_sentences.txt [--device cuda].

One optimiser step of 120 pairs (two different texts each: cost does not depend on what a pair says) with the same LoRA on all sides:

(a) the published way: a causal language model with its vocabulary logits, all texts padded to the longest of all, micro-batches of 12 whose
    gradients are accumulated, so that a pair has 11 negatives; in float32, its own format on a CPU, and in bfloat16 (only this on a GPU);
(b) sentence-transformers' CachedMultipleNegativesRankingLoss over its own modules, texts in their order;
(c) this project: packed rows, output of frozen lower layers kept, activations kept while they fit.

Memory is taken in processes of its own, (c) with texts of 100 tokens. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _workload import ONE_WORD, default_weights, sample_texts

from embedding_adaptation import Embedder, Strategy
from embedding_adaptation.pipelines.contrastive_finetuning.info_nce import contrastive_loss
from embedding_adaptation.pipelines.contrastive_finetuning.lora import add_adapter, linear_modules
from embedding_adaptation.pipelines.contrastive_finetuning.lower_states import LowerStates
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.contrastive_finetuning.setup import cache_of, token_rows

BATCH = 120
MICRO_BATCH = 12
LONG_TEXT = 100  # tokens
STRATEGY = Strategy("prompted", ONE_WORD, "last")


def options_of(layers: str, **changes: Any) -> FinetuningOptions:
    """The project's defaults with LoRA on the given layers."""
    return FinetuningOptions.model_validate({"steps": 1, "seed": 0, "batch_size": BATCH, "lora": {"layers": layers}, **changes})


def ours(
    pairs: list[tuple[str, str]], layers: str, arguments: argparse.Namespace, scratch: Path
) -> tuple[Callable[[], None], LowerStates | None]:
    """A step of this project, and its cache of the layers below the adapter."""
    embedder = Embedder.load(default_weights(), device=arguments.device, dtype=arguments.dtype)
    options = options_of(layers)
    first_layer = add_adapter(embedder, options.lora)
    embedder.backbone.train()
    cache, lower_states = cache_of(embedder, STRATEGY, first_layer, options, scratch)
    columns = [list(token_rows(texts, ONE_WORD, embedder.tokenizer, cache.training_pass)) for texts in zip(*pairs, strict=True)]
    apart = np.arange(2 * len(pairs)).reshape(-1, 2)

    def step() -> None:
        batch = cache.forward(columns)
        cache.backward(batch, contrastive_loss(batch.columns, apart, options))

    return step, lower_states


def cached_mnrl(pairs: list[tuple[str, str]], layers: str, arguments: argparse.Namespace) -> Callable[[], None]:
    """A step of sentence-transformers' GradCache over modules that wrap the whole decoder."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    embedder = Embedder.load(default_weights(), device=arguments.device, dtype=arguments.dtype)
    add_adapter(embedder, options_of(layers).lora)
    embedder.backbone.train()
    model = embedder.sentence_transformer(STRATEGY)
    loss = CachedMultipleNegativesRankingLoss(model, scale=20.0, mini_batch_size=16)
    columns = [model.preprocess(list(texts)) for texts in zip(*pairs, strict=True)]
    return lambda: loss([dict(column) for column in columns], None).backward()


def published(pairs: list[tuple[str, str]], layers: str, dtype: torch.dtype, device: str) -> Callable[[], None]:
    """Micro-batches of 12 pairs through a causal language model, padded to the longest of all."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = default_weights().base
    tokenizer = AutoTokenizer.from_pretrained(folder)
    decoder = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    lora = options_of(layers).lora
    modules = linear_modules(decoder, "model.layers", lora.layer_numbers(decoder.config.num_hidden_layers))
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=lora.rank, lora_alpha=lora.alpha, target_modules=modules)
    model = get_peft_model(decoder, config).train()
    prompts = [[ONE_WORD.pattern.replace("{text}", text) for text in texts] for texts in zip(*pairs, strict=True)]
    width = max(len(tokenizer(prompt)["input_ids"]) for column in prompts for prompt in column)
    tokenizer.padding_side = "left"
    padded = {"padding": "max_length", "max_length": width, "truncation": True, "return_tensors": "pt"}
    columns = [tokenizer(column, **padded).to(device) for column in prompts]

    def step() -> None:
        for start in range(0, len(pairs), MICRO_BATCH):
            vectors = []
            for column in columns:
                part = {name: value[start : start + MICRO_BATCH] for name, value in column.items()}
                with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
                    output = model(**part, output_hidden_states=True)
                vectors.append(torch.nn.functional.normalize(output.hidden_states[-1][:, -1].float(), dim=-1))
            scores = vectors[0] @ vectors[1].T * 20.0
            loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(scores), device=device))
            (loss / (len(pairs) / MICRO_BATCH)).backward()

    return step


def seconds_of(step: Callable[[], None], repeats: int, *, warm: bool = True, before: Callable[[], None] = lambda: None) -> float:
    """Median seconds of a step, without what is done before it."""
    if warm:
        step()
    times = []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        step()
        synchronise()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronise() -> None:
    """Wait until a GPU has finished all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def long_pairs(texts: list[str]) -> list[tuple[str, str]]:
    """Pairs of texts of 100 tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(default_weights().base)
    ids = [token for text in texts for token in tokenizer(f"{text} ")["input_ids"]]
    ids *= 1 + 2 * BATCH * LONG_TEXT // len(ids)
    made = [tokenizer.decode(ids[start : start + LONG_TEXT]) for start in range(0, 2 * BATCH * LONG_TEXT, LONG_TEXT)]
    return list(zip(made[:BATCH], made[BATCH:], strict=True))


def peak_memory(layers: str, arguments: argparse.Namespace) -> float:
    """Peak memory in GB of a process that takes a step over texts of 100 tokens."""
    command = [sys.executable, __file__, "--texts", str(arguments.texts or ""), "--dtype", arguments.dtype]
    command += ["--device", arguments.device, "--only-memory", layers]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure all sides on the same pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, help="one text a line; the hard sample otherwise")
    parser.add_argument("--dtype", default="auto", help="of (b) and (c)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only-memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    given = arguments.texts and str(arguments.texts) not in {"", "."}
    texts = arguments.texts.read_text(encoding="utf-8").splitlines()[: 2 * BATCH] if given else sample_texts(2 * BATCH)
    if arguments.only_memory:
        with tempfile.TemporaryDirectory() as scratch:
            step, _ = ours(long_pairs(texts), arguments.only_memory, arguments, Path(scratch))
            step()
        if arguments.device == "cuda":
            print(torch.cuda.max_memory_allocated() / 1e9)
            return
        # Not getrusage: what it tells begins with the peak of the process that started this one.
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(int(peak.split()[1]) / 1e6)
        return
    pairs = list(zip(texts[:BATCH], texts[BATCH:], strict=True))
    few = pairs[: 3 * MICRO_BATCH]  # (a) takes as long for each micro-batch
    speed: dict[str, float] = {}

    def note(name: str, count: int, seconds: float) -> None:
        speed[name] = count / seconds
        print(f"  {name:<58} {speed[name]:7.2f} pairs/s", flush=True)

    place = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{BATCH} pairs, {place}")
    for layers in ("all", "upper_half"):
        with tempfile.TemporaryDirectory() as scratch:
            step, lower_states = ours(pairs, layers, arguments, Path(scratch))
            step()
            if lower_states is not None:
                seconds = seconds_of(step, arguments.repeats, warm=False, before=lower_states.close)
                note(f"(c) this project, {layers}, texts seen for the first time", BATCH, seconds)
            note(f"(c) this project, {layers}", BATCH, seconds_of(step, arguments.repeats, warm=False))
        step = cached_mnrl(pairs, layers, arguments)
        note(f"(b) CachedMultipleNegativesRankingLoss, {layers}", BATCH, seconds_of(step, arguments.repeats, warm=False))
    own_format = torch.float32 if arguments.device == "cpu" else torch.bfloat16
    for layers, dtype in dict.fromkeys((("all", own_format), ("all", torch.bfloat16), ("upper_half", own_format))):
        name = f"(a) published, {layers}, {str(dtype).removeprefix('torch.')}"
        note(name, len(few), seconds_of(published(few, layers, dtype, arguments.device), 1, warm=False))
    first = "(c) this project, upper_half, texts seen for the first time"
    memory = {layers: peak_memory(layers, arguments) for layers in ("upper_half", "all")}
    print(f"  peak memory with texts of {LONG_TEXT} tokens: " + ", ".join(f"{name} {value:.2f} GB" for name, value in memory.items()))
    own = str(own_format).removeprefix("torch.")
    figures = {
        "ratio_published": speed[first] / speed[f"(a) published, upper_half, {own}"],
        "ratio_published_all_layers": speed["(c) this project, all"] / speed[f"(a) published, all, {own}"],
        "ratio_published_all_layers_bfloat16": speed["(c) this project, all"] / speed["(a) published, all, bfloat16"],
        "ratio_cached_mnrl_all_layers": speed["(c) this project, all"] / speed["(b) CachedMultipleNegativesRankingLoss, all"],
        "ratio_cached_mnrl_upper_half": speed[first] / speed["(b) CachedMultipleNegativesRankingLoss, upper_half"],
        "ratio_cached_mnrl_upper_half_again": speed["(c) this project, upper_half"]
        / speed["(b) CachedMultipleNegativesRankingLoss, upper_half"],
        "peak_memory_gb": max(memory.values()),
        "pairs_per_s": speed[first],
    }
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
