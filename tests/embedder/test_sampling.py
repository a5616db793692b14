from __future__ import annotations

import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from embedding_adaptation.embedder import sampling as module
from embedding_adaptation.embedder.reference import plain_answers
from embedding_adaptation.embedder.sampling import AnswerSampler, common_prefix, slots_are_exact
from embedding_adaptation.embedder.token_choice import Prompt, Sampling

ENDS = frozenset(range(30))
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 300}


@pytest.fixture(scope="module")
def model(tiny_weights):
    return AutoModelForCausalLM.from_pretrained(tiny_weights.base).eval()


def prompts(count=20, longest=12, seed=0):
    source = random.Random(seed)
    return [
        Prompt([5, 6, 7] + [source.randrange(40, 290) for _ in range(source.randrange(1, 9))], [source.random() for _ in range(longest)])
        for _ in range(count)
    ]


def sampled(model, given, sampling, groups=None, **options):
    return {number: (answer, ended) for number, answer, ended in AnswerSampler(model, ENDS, sampling, **options).answers(given, groups)}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("batch_size", [None, 5, 1])
def test_slots_give_the_answers_of_transformers_own_loop(model, temperature, batch_size):
    sampling = Sampling(temperature, 0.9, 12)
    given = prompts()
    plain = plain_answers(model, given, ENDS, sampling)
    if temperature:
        assert 0 < sum(ended for _, ended in plain) < len(plain)
    for groups in (None, [number % 3 for number in range(len(given))]):
        answers = sampled(model, given, sampling, groups, batch_size=batch_size)
        assert [answers[number] for number in range(len(given))] == plain


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Qwen3ForCausalLM, Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8)),
        (MistralForCausalLM, MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=6)),
        (Gemma2ForCausalLM, Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=6)),
        (GPT2LMHeadModel, GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=300)),
    ],
    ids=["qwen3", "mistral-window", "gemma2-softcap", "gpt2"],
)
def test_other_families_give_their_own_answers(kind, config):
    torch.manual_seed(0)
    other = kind(config).eval()
    sampling = Sampling(0.7, 0.95, 8)
    given = prompts(6, 8)
    answers = sampled(other, given, sampling, batch_size=4)
    assert [answers[number] for number in range(6)] == plain_answers(other, given, ENDS, sampling)
    assert slots_are_exact(other)


def test_a_model_whose_attention_stays_its_own_takes_the_plain_way(model, monkeypatch):
    sampling = Sampling(0.8, 0.9, 6)
    given = prompts(5, 6)
    monkeypatch.setattr(module, "slots_are_exact", lambda _: False)
    monkeypatch.setattr(AnswerSampler, "_in_slots", None)
    answers = sampled(model, given, sampling, batch_size=2)
    assert [answers[number] for number in range(5)] == plain_answers(model, given, ENDS, sampling)


def test_a_wrong_mask_is_noticed(model, monkeypatch):
    assert slots_are_exact(model)
    right = module.additive
    monkeypatch.setattr(module, "additive", lambda *a: (right(*a) * 0).nan_to_num())
    assert not slots_are_exact(model)


def test_an_answer_does_not_depend_on_its_company(model):
    sampling = Sampling(1.0, 0.9, 8)
    given = prompts(8, 8)
    together = sampled(model, given, sampling)
    alone = [sampled(model, [prompt], sampling)[0] for prompt in given]
    assert [together[number] for number in range(8)] == alone


def test_no_prompts_no_answers(model):
    assert list(AnswerSampler(model, ENDS, Sampling(0.0, 1.0, 2)).answers([])) == []


def test_memory_decides_how_many_are_under_way(model):
    sampling = Sampling(0.0, 1.0, 2)
    assert AnswerSampler(model, ENDS, sampling, batch_size=7).slots(100) == 7
    few = AnswerSampler(model, ENDS, sampling, memory_mb=64).slots(200_000)
    assert few < AnswerSampler(model, ENDS, sampling, memory_mb=256).slots(200_000) <= 64
    assert AnswerSampler(model, ENDS, sampling, memory_mb=64).slots(10**9) == 1


@pytest.mark.parametrize(
    ("rows", "shared"),
    [([[1, 2, 3], [1, 2, 4, 5]], 2), ([[1, 2], [1, 2]], 1), ([[1, 2, 3]], 2), ([[1], [2]], 0), ([[1, 2, 3], [1, 2]], 1)],
)
def test_every_prompt_keeps_a_token_of_its_own(rows, shared):
    assert common_prefix(rows) == shared
