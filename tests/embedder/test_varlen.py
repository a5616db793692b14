"""Strands against layouts, and passes with the kernel's slow equivalent against plain attention; the kernel itself where there is CUDA."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, LlamaConfig, MistralConfig, Qwen3Config

from embedding_adaptation.embedder import decoder_pass, training_pass, varlen
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.prompt_tree import PromptTree, causal_layout
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import Frame, PromptTemplate
from embedding_adaptation.embedder.training_pass import TrainingPass

TREES = {
    "one suffix": (Frame((1, 2, 3), (7, 8), 9),),
    "three suffixes, less room for one": (Frame((1, 2, 3), (7, 8), 9), Frame((1, 2, 3), (5,), 4), Frame((1, 2, 3), (4, 5, 6), 9)),
    "no suffix beside two": (Frame((1, 2, 3), (), 5), Frame((1, 2, 3), (5, 6), 9), Frame((1, 2, 3), (), 9)),
    "no prefix": (Frame((), (7, 8), 9), Frame((), (6,), 9)),
    "nothing but the text": (Frame((1,), (), 9),),
}
TEXTS = ["the bus is late", "please give back the book", "water " * 20, "", "bus", "the bus is late", "بيت 🎉"]
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
FAMILIES = {
    "llama": LlamaConfig(**SMALL, intermediate_size=48),
    "qwen3": Qwen3Config(**SMALL, intermediate_size=48, head_dim=8),
    "mistral with a window": MistralConfig(**SMALL, intermediate_size=48, sliding_window=5),
}
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def seen_by(strands: varlen.Strands, keys: int) -> np.ndarray:
    """What each query of strands sees, ``[Q, keys]`` bool."""
    rows, at = [], 0
    for queries, count in zip(strands.query_counts, strands.key_counts, strict=True):
        own = strands.keys[at : at + count]
        at += count
        for back in range(queries - 1, -1, -1):
            seen = np.zeros(keys, dtype=bool)
            seen[own[: count - back]] = True
            rows.append(seen)
    assert at == len(strands.keys)
    return np.array(rows)


@pytest.fixture
def by_strands(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Let passes on a CPU attend by strands; the list gets the shape of the queries of each call."""
    calls = []

    def kernel(q: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        calls.append(q.shape)
        return varlen.plain_kernel(q, *args, **options)

    for module in (decoder_pass, training_pass):
        monkeypatch.setattr(module, "kernel_of", lambda _call: kernel)
    return calls


@pytest.mark.parametrize("frames", TREES.values(), ids=TREES)
@pytest.mark.parametrize("length", [0, 1, 4, 7, 30])
def test_a_token_sees_what_its_layout_says(frames, length):
    layout = PromptTree(frames).layout(length)
    if not layout.width:
        pytest.skip("a row without tokens")
    shared, width = layout.shared, layout.width
    strands = varlen.strands_of_rows([(0, 3, layout), (3 * width, 1, layout)])
    lasts = varlen.last_strands_of_rows([(0, 3, layout), (3 * width, 1, layout)])
    whole = seen_by(strands, shared + 4 * width)
    expected = np.zeros((4 * width, shared + 4 * width), dtype=bool)
    for row in range(4):
        own = slice(row * width, (row + 1) * width)
        expected[own, :shared] = layout.allowed[:, :shared]
        expected[own, shared + own.start : shared + own.stop] = layout.allowed[:, shared:]
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(
        seen_by(lasts, shared + 4 * width), expected[[row * width + last for row in range(4) for last in layout.last]]
    )


@pytest.mark.parametrize("shared", [0, 3])
def test_a_text_sees_the_prefix_and_itself(shared):
    lengths = [2, 1, 4]
    total = shared + sum(lengths)
    expected = np.tril(np.ones((total, total), dtype=bool))
    for start, length in zip((shared, shared + 2, shared + 3), lengths, strict=True):
        expected[start : start + length, shared:start] = False
    np.testing.assert_array_equal(seen_by(varlen.strands_of_texts(shared, lengths), total), expected)
    ends = [shared + 1, shared + 2, shared + 6]
    np.testing.assert_array_equal(seen_by(varlen.strands_of_texts(shared, lengths, last=True), total), expected[ends])


@pytest.mark.parametrize("pooling", ["last", "mean", "value_weighted"])
def test_vectors_are_those_of_plain_attention(tiny_weights, by_strands, monkeypatch, pooling):
    templates = (
        PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "'),
        PromptTemplate("long", 'This sentence: "{text}" means in one simple word that they would take: "'),
        PromptTemplate("open", 'This sentence: "{text}'),
    )
    strategies = [Strategy("all", templates, pooling, (-1, 1)), Strategy("one", templates[0], pooling)]
    embedder = Embedder.load(tiny_weights, device="cpu", dtype="float32", max_length=64)
    by = embedder.encode_strategies(TEXTS, strategies, progress=False)
    assert by_strands
    if pooling == "last":
        assert any(shape[0] < max(own[0] for own in by_strands) for shape in by_strands)  # the highest layer: last tokens only
    for module in (decoder_pass, training_pass):
        monkeypatch.setattr(module, "kernel_of", lambda _call: None)
    plain = Embedder.load(tiny_weights, device="cpu", dtype="float32", max_length=64).encode_strategies(TEXTS, strategies, progress=False)
    for name, vectors in plain.items():
        np.testing.assert_allclose(by[name], vectors, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_gradients_are_those_of_plain_attention(family, pooling, by_strands, monkeypatch):
    torch.manual_seed(0)
    decoder = AutoModel.from_config(FAMILIES[family])
    model = get_peft_model(decoder, LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.train()

    def computed() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        fast = TrainingPass(model, Frame((5, 6, 7), (8, 9), 40), pooling)
        rows = [fast.row(text) for text in ([11, 12, 13], [14], [15, 16, 17, 18, 19, 20], [30] * 17)]
        with fast.training():
            vectors = fast.embed(rows)
            vectors.square().sum().backward()
        return vectors.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    vectors, gradients = computed()
    assert by_strands
    monkeypatch.setattr(training_pass, "kernel_of", lambda _call: None)
    plain, expected = computed()
    torch.testing.assert_close(vectors, plain, atol=1e-5, rtol=1e-4)
    assert gradients.keys() == expected.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def aligned_at_the_start(q, k, v, query_ends, key_ends, *counts, **options):
    """A kernel whose causal mask begins at the first key, as some versions of flash attention had it."""
    outputs = []
    for first, end, start in zip(query_ends[:-1], query_ends[1:], key_ends[:-1], strict=True):
        stop = start + (end - first)
        ends = torch.stack([torch.zeros_like(stop), stop - start])
        outputs.append(varlen.plain_kernel(q[first:end], k[start:stop], v[start:stop], ends, ends, *counts, **options))
    return torch.cat(outputs)


def fails(*_args, **_options):
    msg = "no kernel image is available\nfor this device"
    raise RuntimeError(msg)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [(varlen.plain_kernel, None), (aligned_at_the_start, "differs from plain attention"), (fails, "does not run here (no kernel image")],
    ids=["right", "wrong mask", "fails"],
)
def test_a_kernel_that_computes_something_else_is_not_used(kernel, message, monkeypatch, caplog):
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    varlen._is_right.cache_clear()
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        right = varlen._is_right(torch.device("cpu"), torch.float32, (4, 2, 8))
        assert varlen._is_right(torch.device("cpu"), torch.float32, (4, 2, 8)) is right
    varlen._is_right.cache_clear()
    assert right is (message is None)
    assert [message in record.message for record in caplog.records] == [True] * (message is not None)


def test_a_processor_has_no_kernel():
    states = torch.zeros(1, 4, 3, 8, dtype=torch.bfloat16)
    assert varlen.kernel_of(SimpleNamespace(query=states, key=states, value=states, softcap=None)) is None


def test_no_strand_is_longer_than_its_row():
    strands = varlen.strands_of_rows([(0, 2, causal_layout(3, 2)), (6, 1, causal_layout(5, 2))])
    assert strands.query_counts.tolist() == [3, 3, 5]
    assert strands.key_counts.tolist() == [5, 5, 7]


@cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(9, 3, 64), (16, 8, 128), (32, 8, 64)], ids=["SmolLM2-135M", "Qwen3-0.6B", "Llama-3.2-1B"])
def test_flash_attention_and_its_gradients_are_those_of_plain_attention(dtype, heads):
    assert varlen.kernel_difference(varlen.varlen_attn, torch.device("cuda"), dtype, heads) < varlen._TOLERANCE


@cuda
def test_vectors_on_cuda_are_those_without_the_kernel(tiny_weights, monkeypatch):
    strategy = Strategy("a", PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "'), "last")
    texts = [f"{first} {second}" for first in TEXTS for second in TEXTS]
    by = Embedder.load(tiny_weights, device="cuda", dtype="bfloat16").encode(texts, strategy, progress=False)
    monkeypatch.setattr(decoder_pass, "kernel_of", lambda _call: None)
    plain = Embedder.load(tiny_weights, device="cuda", dtype="bfloat16").encode(texts, strategy, progress=False)
    assert (by * plain).sum(axis=1).min() > 0.998
