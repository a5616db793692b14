"""Rewrites per second against the published loop: python benchmarks/augment.py --texts wiki_sentences.txt.

The published loop takes the texts in their order, eight at a time, padded, each batch until its longest answer is finished, in float32
(what `from_pretrained` loaded unless told otherwise) or in bfloat16. llama.cpp, where `llama-cpp-python` is installed, takes the same GGUF
file and several texts at once: of a few numbers the one that is fastest on the first texts. This project runs in the format it takes by
itself, and in float32. All sides get the same model, texts, prompts and sampling settings.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from _sides import LlamaWriter, MissingSideError, gguf_of
from _workload import PROJECT, default_weights, sample_texts

from embedding_adaptation.embedder.chat import end_ids, load_chat_model
from embedding_adaptation.embedder.device import choose_device, choose_format
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.data_augmentation.generators import rewrite
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, Request
from embedding_adaptation.pipelines.data_augmentation.options import RewriteOptions

BATCH = 8
LLAMA_SLOTS = (4, 8, 16, 32)
WARM_UP_TEXTS = 16


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


def llama_cpp(requests: list[Request], options: RewriteOptions, context: Context) -> Callable[[], tuple[float, int]]:
    """llama.cpp: what it takes for these requests, seconds and new tokens.

    Raises:
        MissingSideError: If it is not installed, the model is no GGUF file, or the options ask for sampling.
    """
    if options.temperature:
        msg = f"llama.cpp is left out: it is compared with greedy decoding only, and temperature is {options.temperature}; set it to 0"
        raise MissingSideError(msg)
    file = gguf_of(context.base_model, PROJECT)
    model, tokenizer = load_chat_model(context.base_model, device="cpu", dtype="float32")
    ends = end_ids(model, tokenizer)

    def prompts_of(chosen: list[Request]) -> list[list[int]]:
        texts = [
            tokenizer.apply_chat_template(rewrite.conversation(one, options), tokenize=False, add_generation_prompt=True) for one in chosen
        ]
        return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    longest = max(map(len, prompts_of(requests))) + options.max_new_tokens
    writers = {slots: LlamaWriter(file, torch.get_num_threads(), slots, longest) for slots in LLAMA_SLOTS}

    def run(chosen: list[Request], slots: int) -> tuple[float, int]:
        start = time.perf_counter()
        made = writers[slots].answers(prompts_of(chosen), ends, options.max_new_tokens)
        for answer in made:
            tokenizer.decode(answer, skip_special_tokens=True)
        return time.perf_counter() - start, sum(map(len, made))

    run(requests[:4], LLAMA_SLOTS[0])
    seconds = {slots: run(requests[:WARM_UP_TEXTS], slots)[0] for slots in LLAMA_SLOTS}
    best = min(seconds, key=lambda slots: seconds[slots])
    print(f"llama.cpp: {best} texts at once", file=sys.stderr, flush=True)
    return lambda: run(requests, best)


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
    number_format = choose_format("auto", choose_device("auto"))
    in_float32 = replace(context, embedder_options=embedder_options.model_copy(update={"dtype": "float32"}))
    sides: dict[str, Callable[[], tuple[float, int]]] = {
        "published loop, float32": lambda: published(requests, options, context, "float32"),
        "published loop, bfloat16": lambda: published(requests, options, context, "bfloat16"),
        "this project": lambda: ours(requests, options, context),
    }
    if number_format != "float32":
        sides["this project, float32"] = lambda: ours(requests, options, in_float32)
        ours(requests[:4], options, in_float32)
    try:
        sides["llama.cpp"] = llama_cpp(requests, options, context)
    except MissingSideError as missing:
        print(missing, file=sys.stderr, flush=True)
    ours(requests[:4], options, context)
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
                "ratio_own_float32": round(seconds.get("this project, float32", own) / own, 2),
                "ratio_llama_cpp": round(seconds["llama.cpp"] / own, 2) if "llama.cpp" in seconds else None,
                "dtype": number_format,
            }
        )
    )


if __name__ == "__main__":
    main()
