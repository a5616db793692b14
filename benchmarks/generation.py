"""Rewriting with and without the shared beginning of prompts read once: python benchmarks/generation.py."""

from __future__ import annotations

import logging
import warnings

import torch
import yaml
from _workload import PROJECT, default_weights, median_seconds, report, sample_texts

from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.data_augmentation import generation
from embedding_adaptation.pipelines.data_augmentation.options import GenerationOptions

TEXTS = 48
APART = "every prompt read whole"


def main() -> None:
    """Measure the same prompts, greedily, so that both sides write the same answers."""
    from transformers import GenerationConfig

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    parameters = yaml.safe_load((PROJECT / "conf/base/parameters/data_augmentation.yml").read_text())
    options = GenerationOptions.model_validate(parameters["data_augmentation"]["generation"] | {"seed": 0})
    embedder_options = EmbedderOptions.model_validate(
        {
            "device": "cpu",
            "templates": {"bare": "{text}"},
            "strategies": {"a": {"weights": "base", "template": "bare", "pooling": "mean"}},
            "adapt": "a",
        }
    )
    model, tokenizer = generation._load_generator(default_weights(), embedder_options)  # noqa: SLF001
    style = options.styles["simpler"]
    prompts = [
        tokenizer.apply_chat_template(generation._conversation(text, style, options), tokenize=False, add_generation_prompt=True)  # noqa: SLF001
        for text in sample_texts(TEXTS)
    ]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    config = GenerationConfig(max_new_tokens=24, min_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    shared_prefix = generation._common_prefix  # noqa: SLF001
    seconds = {}
    for name, prefix in ((APART, lambda prompts: 0), ("shared beginning read once (chosen)", shared_prefix)):  # noqa: ARG005
        generation._common_prefix = prefix  # noqa: SLF001
        seconds[name] = median_seconds(lambda: generation.generate_with_shared_prefix(model, ids, config))
    report(
        f"Rewriting {TEXTS} texts, {shared_prefix(ids)} of {max(map(len, ids))} prompt tokens shared, 24 new tokens, "
        f"{torch.get_num_threads()} threads",
        APART, seconds, TEXTS, "texts",
    )  # fmt: skip


if __name__ == "__main__":
    main()
