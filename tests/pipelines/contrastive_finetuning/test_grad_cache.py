from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, LlamaConfig

from embedding_adaptation.embedder.template import Frame
from embedding_adaptation.embedder.training_pass import PaddedPass, TrainingPass
from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCacheLoss, _chunks_of
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
    """Two columns of padded prompts of different lengths."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(2):
        lengths = torch.randint(1, 14, (BATCH,), generator=generator).tolist()
        texts = [torch.randint(10, 64, (length,), generator=generator).tolist() for length in lengths]
        prompts = [[*FRAME.prefix, *text, *FRAME.suffix] for text in texts]
        width = max(map(len, prompts))
        made.append(
            {
                "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids in prompts]),
                "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts]),
            }
        )
    return made


def batch_loss(vectors, labels):
    return info_nce(vectors[0], vectors[1], temperature=0.05)


def gradients_of(model, loss):
    model.zero_grad()
    value = loss(columns(), None)
    value.backward()
    return value.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def plain(model):
    """One padded pass over the whole batch, all layers, all activations."""
    slow = PaddedPass(model, FRAME, "last")

    def loss(features, _):
        rows = [
            tuple(ids[3:length]) for f in features for ids, length in zip(f["input_ids"].tolist(), f["attention_mask"].sum(1), strict=True)
        ]
        return batch_loss(list(slow.embed(rows).split(BATCH)), None)

    return gradients_of(model, loss)


def cached(model, first_layer, activation_mb, chunk_tokens=24):
    fast = TrainingPass(model, FRAME, "last", first_layer)
    lower = LowerStates(fast.lower_states, memory_mb=1) if first_layer else None
    loss = GradCacheLoss(None, fast, batch_loss, chunk_tokens=chunk_tokens, activation_mb=activation_mb, lower_states=lower)
    return loss, gradients_of(model, loss)


@pytest.mark.parametrize("first_layer", [0, 2])
@pytest.mark.parametrize("activation_mb", [0, 64])
def test_gradients_in_chunks_equal_one_plain_pass(first_layer, activation_mb):
    model = model_with()
    expected_loss, expected = plain(model)
    loss, (value, gradients) = cached(model, first_layer, activation_mb)
    torch.testing.assert_close(value, expected_loss, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)
    assert loss.tokens_again == (0 if activation_mb else loss.tokens)


def test_a_budget_for_some_chunks_keeps_these_and_embeds_the_others_again():
    model = model_with()
    loss, (_, all_again) = cached(model, 2, 0)
    loss.activation_bytes = 150_000
    loss.tokens = loss.tokens_again = 0
    _, gradients = gradients_of(model, loss)
    assert 0 < loss.tokens_again < loss.tokens
    for name, gradient in all_again.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5)


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
    _, (_, gradients) = cached(model, 2, 0)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)


class Tight:
    """Lets embedding fail where a chunk has more tokens than fit, or in one call."""

    def __init__(self, loss, monkeypatch, *, most_tokens=10**9, failing_call=None):
        self.calls, self.embed = 0, loss._embed
        self.most_tokens, self.failing_call = most_tokens, failing_call
        monkeypatch.setattr(loss, "_embed", self)

    def __call__(self, rows):
        self.calls += 1
        if sum(map(len, rows)) > self.most_tokens or self.calls == self.failing_call:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.embed(rows)


def test_chunks_that_do_not_fit_are_halved_and_the_gradients_stay(monkeypatch, caplog):
    model = model_with()
    _, (value, expected) = cached(model, 2, 0)
    fast = TrainingPass(model, FRAME, "last", 2)
    lower = LowerStates(fast.lower_states, memory_mb=1)
    loss = GradCacheLoss(None, fast, batch_loss, chunk_tokens=96, activation_mb=64, lower_states=lower)
    Tight(loss, monkeypatch, most_tokens=30)
    again, gradients = gradients_of(model, loss)
    assert loss.chunk_tokens == 24
    assert caplog.text.count("out of memory: going on with chunks of") == 2
    torch.testing.assert_close(again, value)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5)


def test_memory_that_runs_out_on_the_way_back_adds_no_gradient_twice(monkeypatch):
    model = model_with()
    _, (_, expected) = cached(model, 2, 0)
    fast = TrainingPass(model, FRAME, "last", 2)
    lower = LowerStates(fast.lower_states, memory_mb=1)
    loss = GradCacheLoss(None, fast, batch_loss, chunk_tokens=48, activation_mb=0, lower_states=lower)
    chunks = len(_chunks_of([row for f in columns() for row in loss._rows(f)], 48))
    Tight(loss, monkeypatch, failing_call=chunks + 2)
    _, gradients = gradients_of(model, loss)
    assert loss.chunk_tokens == 24
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5)


def test_where_not_even_one_text_fits_the_error_comes_out(monkeypatch):
    model = model_with()
    loss, _ = cached(model, 0, 0)
    Tight(loss, monkeypatch, most_tokens=2)
    with pytest.raises(torch.OutOfMemoryError):
        gradients_of(model, loss)


def test_without_gradients_only_the_loss_is_computed():
    model = model_with()
    fast = TrainingPass(model, FRAME, "last")
    loss = GradCacheLoss(None, fast, batch_loss, chunk_tokens=24, activation_mb=64)
    with torch.no_grad():
        value = loss(columns(), None)
    assert not value.requires_grad
    torch.testing.assert_close(value, plain(model)[0], atol=1e-5, rtol=1e-5)
