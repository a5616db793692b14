from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, GemmaConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

from embedding_adaptation.embedder.attention_swap import UnsupportedDecoderError
from embedding_adaptation.embedder.decoder_pass import layers_name
from embedding_adaptation.embedder.template import Frame
from embedding_adaptation.embedder.training_pass import PaddedPass, TrainingPass

FRAME = Frame((5, 6, 7), (8, 9), 40)
TEXTS = [[11, 12, 13], [14], [15, 16, 17, 18, 19, 20], [21, 22, 23], [24, 25, 26, 27], [30] * 17]
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
FAMILIES = {
    "llama": LlamaConfig(**SMALL, intermediate_size=48),
    "qwen3": Qwen3Config(**SMALL, intermediate_size=48, head_dim=8),
    "gemma": GemmaConfig(**SMALL, intermediate_size=48, head_dim=8),
    "mistral with a window": MistralConfig(**SMALL, intermediate_size=48, sliding_window=5),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=4, n_head=4, resid_pdrop=0.0, attn_pdrop=0.0, embd_pdrop=0.0),
}


def adapted(config, first_layer, **changes):
    """A tiny random decoder with an adapter that is not zero on the layers from ``first_layer`` on."""
    torch.manual_seed(0)
    decoder = AutoModel.from_config(config)
    path = layers_name(decoder)
    names = [
        name
        for name, module in decoder.named_modules()
        if name.startswith(tuple(f"{path}.{layer}." for layer in range(first_layer, 4))) and type(module).__name__ in {"Linear", "Conv1D"}
    ]
    model = get_peft_model(decoder, LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=names, **changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model.train()


def gradients(model, vectors):
    model.zero_grad()
    target = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    (torch.nn.functional.normalize(vectors.float(), dim=-1) * target).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_gradients(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in first.values())
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name], atol=tolerance, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first_layer", [0, 2])
def test_packed_rows_above_frozen_layers_give_the_gradients_of_padded_prompts(family, first_layer):
    model = adapted(FAMILIES[family], first_layer)
    fast, slow = TrainingPass(model, FRAME, "last", first_layer), PaddedPass(model, FRAME, "last")
    rows = [fast.row(text) for text in TEXTS]
    with fast.training():
        packed = fast.embed(rows)
        of_packed = gradients(model, packed)
    padded = slow.embed(rows)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-4)
    assert_same_gradients(of_packed, gradients(model, padded))


@pytest.mark.parametrize("pooling", ["last", "mean", "text_mean", "weighted_mean", "last_mean", "max"])
@pytest.mark.parametrize("frame", [FRAME, Frame((), (8, 9), 40), Frame((5, 6), (), 40)], ids=["both", "no prefix", "no suffix"])
def test_every_pooling_and_form_of_template_gives_the_same_vectors_and_gradients(pooling, frame):
    model = adapted(FAMILIES["llama"], 1)
    fast, slow = TrainingPass(model, frame, pooling, 1), PaddedPass(model, frame, pooling)
    rows = [fast.row(text) for text in TEXTS]
    with fast.training():
        packed = fast.embed(rows)
        of_packed = gradients(model, packed)
    padded = slow.embed(rows)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-4)
    assert_same_gradients(of_packed, gradients(model, padded))


def test_states_of_lower_layers_are_those_of_the_whole_pass_and_take_part_in_no_graph():
    model = adapted(FAMILIES["llama"], 2)
    fast = TrainingPass(model, FRAME, "last", 2)
    rows = [fast.row(text) for text in TEXTS]
    states = fast.lower_states(rows)
    for row, state in zip(rows, states, strict=True):
        hidden = model(torch.tensor([[*fast.tree.shared, *row]]), output_hidden_states=True).hidden_states[2][0]
        torch.testing.assert_close(state, hidden[len(fast.tree.shared) :], atol=1e-5, rtol=1e-4)
        assert not state.requires_grad
        assert not state.is_inference()


def test_the_decoder_is_left_as_it_was():
    model = adapted(FAMILIES["llama"], 2)
    fast = TrainingPass(model, FRAME, "last", 2)
    rows = [fast.row(text) for text in TEXTS]
    ids = torch.tensor([TEXTS[2]])
    before = model(ids).last_hidden_state
    attention = model.config._attn_implementation
    with fast.training():
        fast.embed(rows)
    assert model.config._attn_implementation == attention
    torch.testing.assert_close(model(ids).last_hidden_state, before, atol=0, rtol=0)


def test_rows_do_not_see_one_another():
    model = adapted(FAMILIES["llama"], 0).eval()
    fast = TrainingPass(model, FRAME, "last")
    rows = [fast.row(text) for text in TEXTS]
    with torch.no_grad(), fast.training():
        together = fast.embed(rows)
        alone = torch.cat([fast.embed([row]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_the_check_accepts_what_packs_and_names_what_does_not(monkeypatch):
    model = adapted(FAMILIES["llama"], 2)
    fast = TrainingPass(model, FRAME, "last", 2)
    rows = [fast.row(text) for text in TEXTS]
    fast.check(rows)
    assert model.training
    monkeypatch.setattr(PaddedPass, "embed", lambda self, rows: torch.randn(len(rows), 32))
    with pytest.raises(UnsupportedDecoderError, match=r"LlamaModel gives different vectors in packed rows \(cosine"):
        fast.check(rows)


def test_a_layer_with_attention_of_its_own_is_named(monkeypatch):
    model = adapted(FAMILIES["llama"], 0)
    fast = TrainingPass(model, FRAME, "last")
    attention = fast.packed.attentions[1]
    monkeypatch.setattr(attention, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(UnsupportedDecoderError, match="in 3 of 4 layers"), fast.training():
        fast.embed([fast.row(TEXTS[0])])
