"""Packed rows against one text at a time, with everything kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from embedding_adaptation.embedder.attention_swap import UnsupportedDecoderError
from embedding_adaptation.embedder.decoder_pass import PackedDecoder, Wanted, row_groups
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.prompt_tree import causal_layout
from embedding_adaptation.embedder.reference import encode_one_by_one, packing_is_exact
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

TEMPLATES = (
    PromptTemplate("bare", "{text}"),
    PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "'),
    PromptTemplate("long", 'This sentence: "{text}" means in one simple word that they would take: "'),
    PromptTemplate("open", 'This sentence: "{text}'),
    PromptTemplate("framed", "{text} is", bos=True, eos=True),
)
TEXTS = [
    "the bus is late",
    "please give back the book",
    "water " * 40,
    "",
    "bus",
    "{x}",
    '" means in one word: "',
    "the bus is late",
    "بيت 🎉",
]
POOLINGS = ("last", "mean", "text_mean", "weighted_mean", "last_mean", "max", "attention_weighted", "value_weighted")


def by_hand(embedder: Embedder, strategy: Strategy, texts: list[str]) -> np.ndarray:
    vectors = {strategy.name: np.zeros((len(texts), embedder.dimension(strategy)), np.float32)}
    encode_one_by_one(embedder, texts, [strategy], vectors)
    (matrix,) = vectors.values()
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12) if strategy.normalise else matrix


def grid() -> list[Strategy]:
    strategies = [
        Strategy(f"{template.name}.{pooling}.{layers}", template, pooling, layers)
        for template, pooling, layers in itertools.product(TEMPLATES, POOLINGS, [(-1,), (1,), (1, -1)])
    ]
    return [
        *strategies,
        Strategy("embeddings", TEMPLATES[1], "mean", (0,)),
        Strategy("eos", TEMPLATES[4], "eos"),
        Strategy("ensemble", TEMPLATES[:4], "last"),
        Strategy("consensus", TEMPLATES[:4], "value_weighted", layers=(-1, -2), combine="concatenate"),
        Strategy("raw", TEMPLATES[1], "mean", normalise=False),
        Strategy("heads", TEMPLATES[1], "attention_weighted", (1,), attention_layers=(2, -1), attention_heads=(0, 3)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("batch_tokens", [48, 4096])
def test_a_grid_in_one_pass_equals_every_strategy_by_hand(tiny_embedder, batch_tokens):
    tiny_embedder.batch_tokens = batch_tokens
    strategies = grid()
    encoded = tiny_embedder.encode_strategies(TEXTS, strategies, progress=False)
    for strategy in strategies:
        np.testing.assert_allclose(encoded[strategy.name], by_hand(tiny_embedder, strategy, TEXTS), atol=1e-5, err_msg=strategy.name)


def test_a_strategy_is_the_same_alone_and_in_a_grid(tiny_embedder):
    strategies = grid()[::7]
    together = tiny_embedder.encode_strategies(TEXTS, strategies, progress=False)
    for strategy in strategies:
        alone = tiny_embedder.encode(TEXTS, strategy, progress=False)
        np.testing.assert_allclose(together[strategy.name], alone, atol=1e-5, err_msg=strategy.name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_is_the_same_in_any_company(tiny_weights, dtype):
    embedder = Embedder.load(tiny_weights, device="cpu", dtype=dtype, max_length=64)
    strategy = Strategy("a", TEMPLATES[1], "last")
    alone = np.concatenate([embedder.encode([text], strategy, progress=False) for text in TEXTS])
    crowd = embedder.encode([*TEXTS, *(f"{a} {b}" for a in TEXTS for b in TEXTS)], strategy, progress=False)[: len(TEXTS)]
    if dtype == "float32":
        np.testing.assert_allclose(crowd, alone, atol=1e-5)
    else:
        assert (crowd * alone).sum(axis=1).min() > 0.9995


def test_layers_above_the_highest_one_are_not_computed(tiny_embedder):
    calls = []
    for layer, module in enumerate(PackedDecoder(tiny_embedder.backbone).layers, start=1):
        module.register_forward_hook(lambda *_, n=layer: calls.append(n))
    for layers, expected in (((2,), {1, 2}), ((0,), set()), ((-1,), {1, 2, 3})):
        calls.clear()
        tiny_embedder._packs = True
        tiny_embedder.encode(["bus"], Strategy("a", TEMPLATES[1], "last", layers), progress=False)
        assert set(calls) == expected


def test_a_prefix_is_computed_once_and_a_text_once_for_all_templates(tiny_embedder):
    tiny_embedder.can_pack()
    strategies = [Strategy(t.name, t, "last") for t in TEMPLATES[1:3]]
    tiny_embedder.encode_strategies(["bus", "house", "bus"], strategies, progress=False)
    frames = [t.frame(tiny_embedder.tokenizer, 64) for t in TEMPLATES[1:3]]
    texts = sum(len(ids) for ids in TEMPLATES[1].text_ids(["bus", "house"], tiny_embedder.tokenizer))
    assert tiny_embedder.tokens_computed == len(frames[0].prefix) + texts + 2 * sum(len(frame.suffix) for frame in frames)


FAMILIES = {
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"sliding_window": 6}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "phi3": ("Phi3Config", {"pad_token_id": 0}),
    "olmo2": ("Olmo2Config", {}),
}


def family(name: str, tokenizer) -> Embedder:
    import transformers

    kind, changes = FAMILIES[name]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = getattr(transformers, kind)(vocab_size=400, **({} if name == "gpt2" else shape), **changes)
    torch.manual_seed(0)
    return Embedder(transformers.AutoModel.from_config(config).eval(), tokenizer, max_length=64)


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_rows_are_exact_for_many_families(tiny_embedder, name):
    embedder = family(name, tiny_embedder.tokenizer)
    assert packing_is_exact(embedder)
    for pooling, layer in (("last", -1), ("attention_weighted", 2), ("value_weighted", -1)):
        strategy = Strategy("a", TEMPLATES[2], pooling, (layer,))
        vectors = embedder.encode(TEXTS, strategy, progress=False)
        np.testing.assert_allclose(vectors, by_hand(embedder, strategy, TEXTS), atol=2e-5, err_msg=pooling)


def test_a_layer_that_ignores_its_attention_is_noticed(tiny_embedder, monkeypatch):
    decoder = PackedDecoder(tiny_embedder.backbone)
    first = decoder.attentions[0]
    monkeypatch.setattr(first, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(UnsupportedDecoderError, match="in 2 of 3 layers"), decoder.packing():
        decoder.read_prefix([1, 2, 3], Wanted(frozenset({3})))


def test_the_attention_implementation_is_put_back(tiny_embedder):
    before = tiny_embedder.backbone.config._attn_implementation
    tiny_embedder.encode(["bus"], progress=False)
    assert tiny_embedder.backbone.config._attn_implementation == before


def test_long_rows_take_the_fused_kernel_with_the_same_result(tiny_embedder, monkeypatch):
    import embedding_adaptation.embedder.attention_swap as module

    strategy = Strategy("a", TEMPLATES[2], "mean")
    plain = tiny_embedder.encode(TEXTS, strategy, progress=False)
    monkeypatch.setattr(module, "_LONG_ROW", 1)
    np.testing.assert_allclose(tiny_embedder.encode(TEXTS, strategy, progress=False), plain, atol=1e-5)


def test_rows_of_one_width_side_by_side_make_one_group():
    groups = row_groups([5, 5, 3, 5], causal_layout)
    assert [(group.layout.width, group.count) for group in groups] == [(5, 2), (3, 1), (5, 1)]
    assert [(group.span.start, group.span.stop) for group in groups] == [(0, 10), (10, 13), (13, 18)]
    assert [(group.members.start, group.members.stop) for group in groups] == [(0, 2), (2, 3), (3, 4)]
