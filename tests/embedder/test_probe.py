"""Packed rows are used only where they let a text see what the model itself lets it see, at every length there will be."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import transformers

from embedding_adaptation.embedder.attention_swap import IMPLEMENTATION, UnsupportedDecoderError
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.positions import position_limit
from embedding_adaptation.embedder.probe import check_masks, limits_within
from embedding_adaptation.embedder.reference import encode_one_by_one
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

SHAPE = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
ROPE = {"rope_theta": 10000.0}
LLAMA4 = {"head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2, "attention_chunk_size": 24}
LONG = PromptTemplate("long", 'This sentence: "{text}" means in one word: "')


def decoder(kind, **changes):
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(getattr(transformers, kind)(**SHAPE | changes)).eval()


@pytest.mark.parametrize(
    ("kind", "changes", "longest", "reason"),
    [
        ("LlamaConfig", {}, 512, None),
        ("MistralConfig", {"sliding_window": 24}, 512, None),
        ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 24}, 512, None),
        ("Llama4TextConfig", LLAMA4, 20, None),
        ("Llama4TextConfig", LLAMA4, 64, "layer 1 of Llama4TextModel has a different mask from that of packed rows"),
        ("Gemma3TextConfig", {"head_dim": 8, "use_bidirectional_attention": True}, 64, "layer 1 of Gemma3TextModel has a different mask"),
        ("LlamaConfig", {"max_position_embeddings": 32, "rope_parameters": ROPE | {"rope_type": "dynamic", "factor": 2.0}}, 64, "rotary"),
        ("LlamaConfig", {"max_position_embeddings": 32, "rope_parameters": ROPE | {"rope_type": "dynamic", "factor": 2.0}}, 32, None),
    ],
)
def test_masks_and_positions_are_compared_up_to_the_longest_text(kind, changes, longest, reason):
    model = decoder(kind, **changes)
    if reason is None:
        check_masks(model, longest)
    else:
        with pytest.raises(UnsupportedDecoderError, match=reason):
            check_masks(model, longest)


def test_the_models_own_attention_is_put_back_after_the_comparison():
    model = decoder("MistralConfig", sliding_window=24)
    before = model.config._attn_implementation
    check_masks(model, 64)
    assert model.config._attn_implementation == before


def test_chunks_shorter_than_the_texts_are_not_computed_in_packed_rows(tiny_embedder):
    texts = ["water " * 50, "bus"]
    strategy = Strategy("a", LONG, "last")
    embedder = Embedder(decoder("Llama4TextConfig", **LLAMA4), tiny_embedder.tokenizer, max_length=64)
    assert not embedder.can_pack()
    expected = {"a": np.zeros((2, 32), np.float32)}
    encode_one_by_one(embedder, texts, [strategy], expected)
    np.testing.assert_allclose(embedder.encode(texts, strategy, progress=False), expected["a"], atol=1e-6)


def test_a_model_that_fails_without_its_mask_is_computed_one_by_one(tiny_embedder, monkeypatch, caplog):
    model = decoder("LlamaConfig")
    forward = type(model.layers[0].self_attn).forward

    def strict(self, hidden_states, *args, attention_mask=None, **kwargs):
        if self.config._attn_implementation == IMPLEMENTATION:
            attention_mask[0]
        return forward(self, hidden_states, *args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(type(model.layers[0].self_attn), "forward", strict)
    embedder = Embedder(model, tiny_embedder.tokenizer, max_length=64)
    with caplog.at_level(logging.WARNING):
        assert embedder.encode(["the bus", "water"], progress=False).shape == (2, 32)
    assert "embedded one by one" in caplog.text


def test_lengths_at_which_a_model_changes_are_found_by_their_names():
    config = transformers.Llama4TextConfig(**SHAPE | LLAMA4 | {"floor_scale": 40})
    assert limits_within(config, 100) == [24, 40]
    assert limits_within(config, 30) == [24]
    assert limits_within(transformers.LlamaConfig(**SHAPE), 100_000) == []


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (transformers.GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=40), 40),
        (transformers.OPTConfig(**SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 48}), 48),
        (transformers.GPTJConfig(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=40, rotary_dim=8), 40),
        (transformers.MptConfig(vocab_size=400, d_model=32, n_layers=2, n_heads=4, max_seq_len=56), 56),
        (transformers.LlamaConfig(**SHAPE | {"max_position_embeddings": 40}), None),
    ],
    ids=["gpt2", "opt", "gptj", "mpt", "llama"],
)
def test_texts_are_cut_where_the_model_has_no_more_positions(config, limit, tiny_embedder, caplog):
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    assert position_limit(model) == limit
    embedder = Embedder(model, tiny_embedder.tokenizer, max_length=100)
    assert embedder.max_length == (limit or 100)
    if limit:
        assert f"has positions for only {limit} tokens: max_length is set to {limit} instead of 100" in caplog.text
    assert np.isfinite(embedder.encode(["water " * 200, "bus"], Strategy("a", PromptTemplate("b", "{text}"), "mean"), progress=False)).all()
