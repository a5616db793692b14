"""Rewrites per second against the published loop: python benchmarks/augment.py --texts wiki_sentences.txt.

The published loop takes the texts in their order, eight at a time, padded, each batch until its longest answer is finished, in float32
(what `from_pretrained` loaded unless told otherwise) or in bfloat16. Both sides get the same model, texts, prompts and sampling settings.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from pathlib import Path

import torch
import yaml
from _workload import PROJECT, default_weights, sample_texts

from embedding_adaptation.embedder.chat import load_chat_model
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.data_augmentation.generators import rewrite
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, Request
from embedding_adaptation.pipelines.data_augmentation.options import RewriteOptions

BATCH = 8


def published(requests: list[Request], options: RewriteOptions, context: Context, dtype: str) -> tuple[float, int]:
    """Seconds and new tokens of the published loop; the model is loaded before the clock starts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(context.base_model.base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(context.base_model.base, dtype=getattr(torch, dtype)).eval()
    greedy = options.temperature == 0.0
    sampling = {"do_sample": False} if greedy else {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p}
    torch.manual_seed(0)
    start, tokens = time.perf_counter(), 0
    for first in range(0, len(requests), BATCH):
        prompts = [
            tokenizer.apply_chat_template(rewrite.conversation(request, options), tokenize=False, add_generation_prompt=True)
            for request in requests[first : first + BATCH]
        ]
        inputs = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, **sampling, max_new_tokens=options.max_new_tokens, pad_token_id=tokenizer.pad_token_id)
        answers = output[:, inputs["input_ids"].shape[1] :]
        tokenizer.batch_decode(answers, skip_special_tokens=True)
        tokens += int((answers != tokenizer.pad_token_id).sum())
    return time.perf_counter() - start, tokens


def ours(requests: list[Request], options: RewriteOptions, context: Context) -> tuple[float, int]:
    """Seconds and new tokens of this project's generator."""
    model, tokenizer = load_chat_model(context.base_model, device=context.embedder_options.device, dtype=context.embedder_options.dtype)
    loading = rewrite.load_chat_model
    rewrite.load_chat_model = lambda *_, **__: (model, tokenizer)
    try:
        start = time.perf_counter()
        made = list(rewrite.generate(requests, options, context))
        seconds = time.perf_counter() - start
    finally:
        rewrite.load_chat_model = loading
    return seconds, sum(len(tokenizer(candidate.generated_text)["input_ids"]) for candidate in made)


def main() -> None:
    """Measure all sides on the same texts, taking turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, help="one text per line; the hard sample by default")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    texts = (
        arguments.texts.read_text(encoding="utf-8").splitlines()[: arguments.count] if arguments.texts else sample_texts(arguments.count)
    )
    parameters = yaml.safe_load((PROJECT / "conf/base/parameters/data_augmentation.yml").read_text())["data_augmentation"]
    options = RewriteOptions.model_validate(parameters["generators"]["rewrite"] | {"max_new_tokens": arguments.max_new_tokens})
    embedder_options = EmbedderOptions.model_validate(
        {"templates": {"bare": "{text}"}, "strategies": {"a": {"weights": "base", "template": "bare", "pooling": "mean"}}, "adapt": "a"}
    )
    context = Context(0, default_weights(), embedder_options, lambda: None, progress=False)  # type: ignore[arg-type,return-value]
    styles = list(options.styles)
    requests = [Request.of(str(number), text, 0, styles[number % len(styles)]) for number, text in enumerate(texts)]
    sides = {
        "published loop, float32": lambda: published(requests, options, context, "float32"),
        "published loop, bfloat16": lambda: published(requests, options, context, "bfloat16"),
        "this project": lambda: ours(requests, options, context),
    }
    rewrite_warm = requests[:4]
    ours(rewrite_warm, options, context)
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in sides}
    for _ in range(arguments.repeats):
        for name, side in sides.items():
            runs[name].append(side())
    seconds = {name: statistics.median(run[0] for run in measured) for name, measured in runs.items()}
    own = seconds["this project"]
    print(f"Rewriting {len(texts)} texts, up to {options.max_new_tokens} new tokens, {torch.get_num_threads()} threads")
    for name, value in seconds.items():
        tokens = statistics.median(run[1] for run in runs[name])
        print(f"  {name:<28} {len(texts) / value:>7.2f} texts/s  {tokens / value:>7.0f} new tokens/s   {value / own:>5.2f} x our time")
    print(
        json.dumps(
            {
                "texts": len(texts),
                "rewrites_per_s": round(len(texts) / own, 2),
                "ratio_published": round(seconds["published loop, float32"] / own, 2),
                "ratio_published_bfloat16": round(seconds["published loop, bfloat16"] / own, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
