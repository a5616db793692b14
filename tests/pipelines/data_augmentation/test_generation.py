from __future__ import annotations

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from embedding_adaptation.pipelines.data_augmentation import generation as module
from embedding_adaptation.pipelines.data_augmentation.generation import (
    GenerationError,
    generate_shards,
    generate_with_shared_prefix,
    generation_fingerprint,
    plan_requests,
)
from embedding_adaptation.pipelines.data_augmentation.options import GenerationOptions

CORPUS = pd.DataFrame({"id": [str(n) for n in range(7)], "text": ["bus " * (n + 1) for n in range(7)]})


def options(**changes):
    example = {"text": "please help", "rewrite": "help"}
    styles = {name: {"instruction": name + " {text}", "examples": [example]} for name in ("short", "simple", "other")}
    values = {"system_prompt": "rewrite", "styles": styles, "max_new_tokens": 4, "batch_size": 2, "shard_size": 3, "seed": 0}
    return GenerationOptions.model_validate(values | changes)


@pytest.fixture(scope="module")
def model(tiny_weights):
    return AutoModelForCausalLM.from_pretrained(tiny_weights.base).eval()


def test_sharing_the_prefix_changes_no_answer(model, tiny_weights):
    """Greedy answers to a batch equal those to each prompt alone, without cache sharing and padding."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_weights.base)
    prompts = tokenizer([f"<s>rewrite the message please: {text}" for text in ("bus", "a house on the street", "water is good")])[
        "input_ids"
    ]
    config = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    shared = generate_with_shared_prefix(model, prompts, config)
    for prompt, answer in zip(prompts, shared, strict=True):
        alone = model.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=config)
        assert alone[0, len(prompt) :].tolist() == answer.tolist()


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [([[1, 2, 3], [1, 2, 4, 5]], 2), ([[1, 2], [1, 2]], 1), ([[1, 2, 3]], 2), ([[1], [2]], 0), ([[1, 2, 3], [1, 2]], 1)],
)
def test_every_prompt_keeps_a_token_of_its_own(prompts, shared):
    assert module._common_prefix(prompts) == shared


def test_prompts_without_a_shared_beginning_work_too(model):
    config = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=1)
    assert generate_with_shared_prefix(model, [[5, 6], [7]], config).shape == (2, 2)


def test_styles_go_round_and_a_text_gets_different_ones():
    requests = plan_requests(CORPUS, options(styles_per_text=2))
    assert len(requests) == 14
    assert requests.groupby("source_id")["style"].nunique().eq(2).all()
    assert requests["style"].value_counts().tolist() == [5, 5, 4]
    assert plan_requests(CORPUS, options(styles_per_text=9)).shape[0] == 21


def test_requests_are_grouped_by_style_and_length():
    requests = plan_requests(CORPUS, options())
    assert requests["style"].is_monotonic_increasing
    for _, group in requests.groupby("style"):
        assert group["source_text"].str.len().is_monotonic_increasing


def test_the_fingerprint_changes_with_texts_model_and_options():
    base = generation_fingerprint(CORPUS, "sha", options())
    assert base == generation_fingerprint(CORPUS.copy(), "sha", options())
    others = {
        generation_fingerprint(CORPUS.head(6), "sha", options()),
        generation_fingerprint(CORPUS, "other", options()),
        generation_fingerprint(CORPUS, "sha", options(seed=1)),
        generation_fingerprint(CORPUS, "sha", options(temperature=0.7)),
    }
    assert base not in others
    assert len(others) == 4


def shards(weights, embedder_options, finished=(), **changes):
    made = {}
    for shard in generate_shards(CORPUS, weights, finished, options(**changes), embedder_options):
        made |= shard
    return made


def test_shards_carry_provenance_and_hold_every_request(tiny_weights, embedder_options):
    made = shards(tiny_weights, embedder_options())
    assert [len(shard) for shard in made.values()] == [3, 3, 1]
    together = pd.concat(made.values())
    assert set(together["source_id"]) == set(CORPUS["id"])
    assert set(together["model"]) == {"random:tiny-llama"}
    assert {"style", "seed", "fingerprint", "model_sha256", "generator", "finished", "generated_text"} <= set(together)


def test_a_shard_made_after_a_crash_is_the_one_that_would_have_been_made(tiny_weights, embedder_options):
    whole = shards(tiny_weights, embedder_options())
    names = sorted(whole)
    rest = shards(tiny_weights, embedder_options(), finished=[names[0], names[2]])
    assert list(rest) == [names[1]]
    pd.testing.assert_frame_equal(rest[names[1]], whole[names[1]])
    assert shards(tiny_weights, embedder_options(), finished=names) == {}


def test_another_seed_gives_other_rewrites(tiny_weights, embedder_options):
    one, two = (pd.concat(shards(tiny_weights, embedder_options(), seed=seed).values()) for seed in (0, 1))
    assert one["generated_text"].tolist() != two["generated_text"].tolist()


def test_a_model_without_chat_template_is_refused(tiny_weights, embedder_options, tmp_path):
    import dataclasses
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_weights.base, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(GenerationError, match=r"has no chat template.*choose its instruction-tuned version"):
        shards(dataclasses.replace(tiny_weights, base=folder), embedder_options())
