from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, LlamaConfig

from embedding_adaptation.embedder.template import Frame
from embedding_adaptation.embedder.training_pass import PaddedPass, TrainingPass
from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCache, _chunks_of
from embedding_adaptation.pipelines.contrastive_finetuning.info_nce import info_nce
from embedding_adaptation.pipelines.contrastive_finetuning.lower_states import LowerStates

FRAME = Frame((5, 6, 7), (8, 9), 40)
BATCH = 9


def model_with(dropout=0.0, **changes):
    torch.manual_seed(0)
    decoder = AutoModel.from_config(
        LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48)
    )
    names = [f"layers.{layer}.self_attn.{name}_proj" for layer in (2, 3) for name in "qkvo"] + ["layers.2.mlp.up_proj"]
    config = LoraConfig(task_type="FEATURE_EXTRACTION", r=4, lora_dropout=dropout, target_modules=names, **changes)
    model = get_peft_model(decoder, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model.train()


def columns():
    """Two columns of rows of different lengths."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(2):
        lengths = torch.randint(1, 14, (BATCH,), generator=generator).tolist()
        texts = [torch.randint(10, 64, (length,), generator=generator).tolist() for length in lengths]
        made.append([(*text, *FRAME.suffix) for text in texts])
    return made


def batch_loss(vectors):
    return info_nce(vectors[0], vectors[1], temperature=0.05)


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def gradients_of(model, cache):
    model.zero_grad()
    batch = cache.forward(columns())
    value = batch_loss(batch.columns)
    cache.backward(batch, value)
    return value.detach(), gradients(model)


def plain(model):
    """One padded pass over the whole batch, all layers, all activations."""
    model.zero_grad()
    value = batch_loss(PaddedPass(model, FRAME, "last").embed([row for column in columns() for row in column]).split(BATCH))
    value.backward()
    return value.detach(), gradients(model)


def cache_of(model, first_layer, activation_mb, chunk_tokens=24):
    fast = TrainingPass(model, FRAME, "last", first_layer)
    fast.lower_source = LowerStates(fast.lower_states, memory_mb=1).of
    return GradCache(fast, chunk_tokens=chunk_tokens, activation_mb=activation_mb)


def cached(model, first_layer, activation_mb):
    cache = cache_of(model, first_layer, activation_mb)
    return cache, gradients_of(model, cache)


@pytest.mark.parametrize("first_layer", [0, 2])
@pytest.mark.parametrize("activation_mb", [0, 64])
def test_gradients_in_chunks_equal_one_plain_pass(first_layer, activation_mb):
    model = model_with()
    expected_loss, expected = plain(model)
    cache, (value, found) = cached(model, first_layer, activation_mb)
    torch.testing.assert_close(value, expected_loss, atol=1e-5, rtol=1e-5)
    assert found.keys() == expected.keys()
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
    assert cache.tokens_again == (0 if activation_mb else cache.tokens)


def test_a_budget_for_some_chunks_keeps_these_and_embeds_the_others_again():
    model = model_with()
    cache, (_, all_again) = cached(model, 2, 0)
    cache.activation_bytes = 150_000
    cache.tokens = cache.tokens_again = 0
    _, found = gradients_of(model, cache)
    assert 0 < cache.tokens_again < cache.tokens
    for name, gradient in all_again.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def test_chunks_embedded_again_see_the_same_dropout():
    model = model_with(dropout=0.3)
    torch.manual_seed(7)
    _, (one, kept) = cached(model, 2, 64)
    torch.manual_seed(7)
    _, (two, again) = cached(model, 2, 0)
    assert one == two
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5)


def test_dora_gives_the_plain_gradients_too():
    model = model_with(use_dora=True)
    _, expected = plain(model)
    _, (_, found) = cached(model, 2, 0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


class Tight:
    """Lets embedding fail where a chunk has more tokens than fit, or in one call."""

    def __init__(self, cache, monkeypatch, *, most_tokens=10**9, failing_call=None):
        self.calls, self.embed = 0, cache.training_pass.embed
        self.most_tokens, self.failing_call = most_tokens, failing_call
        monkeypatch.setattr(cache.training_pass, "embed", self)

    def __call__(self, rows):
        self.calls += 1
        if sum(map(len, rows)) > self.most_tokens or self.calls == self.failing_call:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.embed(rows)


def test_chunks_that_do_not_fit_are_halved_and_the_gradients_stay(monkeypatch, caplog):
    model = model_with()
    _, (value, expected) = cached(model, 2, 0)
    cache = cache_of(model, 2, 64, chunk_tokens=96)
    Tight(cache, monkeypatch, most_tokens=30)
    again, found = gradients_of(model, cache)
    assert cache.chunk_tokens == 24
    assert caplog.text.count("out of memory: continuing with chunks of") == 2
    torch.testing.assert_close(again, value)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def test_memory_that_runs_out_on_the_way_back_adds_no_gradient_twice(monkeypatch):
    model = model_with()
    _, (_, expected) = cached(model, 2, 0)
    cache = cache_of(model, 2, 0, chunk_tokens=48)
    chunks = len(_chunks_of([row for column in columns() for row in column], 48))
    Tight(cache, monkeypatch, failing_call=chunks + 2)
    _, found = gradients_of(model, cache)
    assert cache.chunk_tokens == 24
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def test_where_not_even_one_text_fits_the_error_comes_out(monkeypatch):
    model = model_with()
    cache, _ = cached(model, 0, 0)
    Tight(cache, monkeypatch, most_tokens=2)
    with pytest.raises(torch.OutOfMemoryError):
        gradients_of(model, cache)


def test_without_gradients_only_the_vectors_are_computed():
    model = model_with(dropout=0.3)
    cache = cache_of(model, 2, 64)
    vectors = cache.encode([row for column in columns() for row in column])
    assert not vectors.requires_grad
    assert model.training
    torch.testing.assert_close(batch_loss(vectors.split(BATCH)), plain(model.eval())[0], atol=1e-5, rtol=1e-5)
