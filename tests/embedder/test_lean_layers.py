from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from embedding_adaptation.embedder.lean_layers import LeanLayers
from embedding_adaptation.embedder.template import Frame
from embedding_adaptation.embedder.training_pass import TrainingPass

FRAME = Frame((5, 6, 7), (8, 9), 40)
TEXTS = [[11, 12, 13], [14], [15, 16, 17, 18, 19, 20], [21, 22, 23], [24, 25, 26, 27], [30] * 17]
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2}
KINDS = {
    "llama": LlamaConfig(**SMALL),
    "llama with biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "mistral with a window": MistralConfig(**SMALL, sliding_window=5),
    "qwen2": Qwen2Config(**SMALL),
    "qwen2 with a window": Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
}


def adapted(config, modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), **changes):
    torch.manual_seed(0)
    decoder = AutoModel.from_config(config)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(0.3 * torch.randn(weight.shape))
    names = [name for name, _ in decoder.named_modules() if name.rpartition(".")[2] in modules and not name.startswith("layers.0.")]
    settings = {"task_type": "FEATURE_EXTRACTION", "r": 4, "lora_alpha": 12, "target_modules": names}
    model = get_peft_model(decoder, LoraConfig(**settings | changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model.train()


def gradients_of(model, vectors):
    model.zero_grad()
    (vectors.float() * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def embedded(model, pooling, first_layer, monkeypatch, *, lean):
    training_pass = TrainingPass(model, FRAME, pooling, first_layer)
    with monkeypatch.context() as patch:
        if not lean:
            patch.setattr(LeanLayers, "fits", False)
        else:
            assert LeanLayers(training_pass.decoder, first_layer).fits
        with training_pass.training():
            vectors = training_pass.embed([training_pass.row(text) for text in TEXTS])
            return vectors, gradients_of(model, vectors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("first_layer", [0, 1])
def test_vectors_and_gradients_are_those_of_the_plain_layers(kind, pooling, first_layer, monkeypatch):
    model = adapted(KINDS[kind])
    fast, of_fast = embedded(model, pooling, first_layer, monkeypatch, lean=True)
    slow, of_slow = embedded(model, pooling, first_layer, monkeypatch, lean=False)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    assert of_fast.keys() == of_slow.keys()
    assert max(float(gradient.abs().max()) for gradient in of_slow.values()) > 1e-2
    for name, gradient in of_fast.items():
        torch.testing.assert_close(gradient, of_slow[name], atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_an_adapter_on_a_few_modules_has_the_gradients_of_the_plain_layers(monkeypatch):
    model = adapted(KINDS["llama"], ["q_proj", "up_proj"], use_rslora=True)
    fast, of_fast = embedded(model, "last", 1, monkeypatch, lean=True)
    slow, of_slow = embedded(model, "last", 1, monkeypatch, lean=False)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    assert of_fast.keys() == of_slow.keys()
    for name, gradient in of_fast.items():
        torch.testing.assert_close(gradient, of_slow[name], atol=1e-4, rtol=1e-3)


def test_bfloat16_stays_as_near_to_float32_as_the_plain_layers(monkeypatch):
    model = adapted(KINDS["llama"])
    exact, _ = embedded(model, "last", 1, monkeypatch, lean=False)
    for name, weight in model.named_parameters():
        if "lora_" not in name:
            weight.data = weight.data.bfloat16()
    errors = {}
    for lean in (True, False):
        vectors, gradients = embedded(model, "last", 1, monkeypatch, lean=lean)
        assert vectors.dtype == torch.bfloat16
        assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
        errors[lean] = float((vectors.float() - exact).norm() / exact.norm())
    assert errors[True] < 1.5 * errors[False] + 1e-3


def test_less_is_stored_for_the_gradients(monkeypatch):
    model = adapted(KINDS["llama"])
    stored = {}
    for lean in (True, False):
        seen: dict[int, int] = {}

        def pack(tensor, seen=seen):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            embedded(model, "last", 1, monkeypatch, lean=lean)
        stored[lean] = sum(seen.values())
    assert stored[True] < 0.7 * stored[False]


def test_an_adapter_that_is_switched_off_has_no_effect(monkeypatch):
    model = adapted(KINDS["llama"]).eval()
    with torch.no_grad():
        training_pass = TrainingPass(model, FRAME, "last", 1)
        rows = [training_pass.row(text) for text in TEXTS]
        with model.disable_adapter(), training_pass.training():
            fast = training_pass.embed(rows)
            monkeypatch.setattr(LeanLayers, "fits", False)
            slow = training_pass.embed(rows)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


def test_what_is_not_of_the_kind_is_left_to_the_plain_layers():
    def fits(model):
        return LeanLayers(model.get_base_model(), 1).fits

    assert fits(adapted(KINDS["llama"]))
    assert not fits(adapted(KINDS["llama"], use_dora=True))
    assert not fits(adapted(KINDS["llama"], lora_bias=True))
    assert not fits(adapted(LlamaConfig(**SMALL, hidden_act="gelu")))
    assert not fits(adapted(LlamaConfig(**SMALL, attention_dropout=0.1)))
    assert not fits(adapted(GemmaConfig(**SMALL, head_dim=8)))
    with_dropout = adapted(KINDS["llama"], lora_dropout=0.1)
    assert not fits(with_dropout)
    assert fits(with_dropout.eval())
    watched = adapted(KINDS["llama"])
    handle = watched.get_base_model().layers[2].mlp.register_forward_hook(lambda *_: None)
    assert not fits(watched)
    handle.remove()
    assert fits(watched)
    watched.get_base_model().layers[2].mlp.up_proj.base_layer.weight.requires_grad_()
    assert not fits(watched)
