from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedding_adaptation import Embedder, PromptTemplate, Strategy
from embedding_adaptation.embedder import device as device_module
from embedding_adaptation.embedder import embedder as embedder_module
from embedding_adaptation.embedder import quantised as module
from embedding_adaptation.embedder.device import DeviceError, choose_dtype, choose_format
from embedding_adaptation.embedder.quantised import Preparation, QuantisedLayers, QuantisedWeight, has_kernel, quantise_rows
from embedding_adaptation.runtime import base_weights

TEXTS = ["bus", "a house in a street", "where is my stopcock", "thx", "the train leaves at noon and comes back " * 3]
LAST = Strategy("last", PromptTemplate("topic", 'The topic of "{text}" is: "'), "last")
STRATEGIES = [
    LAST,
    Strategy("values", LAST.template, "value_weighted"),
    Strategy("mean", PromptTemplate("bare", "{text}"), "mean"),
    Strategy("second", LAST.template, "text_mean", layers=(1,)),
]
needs_kernel = pytest.mark.skipif(not has_kernel(), reason="this processor has no exact products of 8-bit integers")


def load(weights, dtype="int8"):
    return Embedder.load(weights, device="cpu", dtype=dtype, max_length=64)


def least_cosine(left, right):
    return float((left * right).sum(axis=1).min() / max(1.0, np.linalg.norm(left, axis=1).max()))


@pytest.fixture
def no_kernel(monkeypatch):
    monkeypatch.setattr(module, "has_kernel", lambda: False)


def test_rows_are_scaled_by_their_own_largest_value():
    integers, scales = quantise_rows(torch.tensor([[1.0, -2.0], [0.0, 0.0], [1e-3, 5e-4]]))
    assert integers.tolist() == [[64, -127], [0, 0], [127, 64]]
    torch.testing.assert_close(scales[[0, 2], 0], torch.tensor([2 / 127, 1e-3 / 127]))


@needs_kernel
@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_kernel_gives_the_product_of_the_integers(rows, with_bias):
    torch.manual_seed(0)
    states, weight = torch.randn(rows, 48) * torch.logspace(-3, 3, rows)[:, None], torch.randn(32, 48)  # [M, K], [out, in]
    bias = torch.randn(32) if with_bias else None
    (left, left_scales), (right, right_scales) = quantise_rows(states), quantise_rows(weight)
    expected = (left.double() * left_scales) @ (right.double() * right_scales).T + (0 if bias is None else bias)  # [M, out]
    product = QuantisedWeight(weight, bias).multiply([(left, left_scales)])
    torch.testing.assert_close(product.double(), expected, rtol=1e-5, atol=1e-5)


@needs_kernel
def test_two_parts_keep_what_one_scale_a_token_loses():
    torch.manual_seed(0)
    states, weight = torch.randn(20, 64), torch.randn(32, 64)  # [M, K], [out, K]
    states[:, 7] *= 1000  # an outlier channel
    states[3] = 0
    states[::4, 11] += 300  # and outliers in some tokens
    prepared = Preparation.of(states)
    assert prepared.in_two
    assert not Preparation.of(torch.rand(20, 64) + 1).in_two
    assert torch.equal(prepared.shrink.log2(), prepared.shrink.log2().round())
    exact = states @ weight.T  # [M, out]
    ways = (None, Preparation(prepared.shrink), prepared)
    copies = [QuantisedWeight(weight, None, way) for way in ways]
    errors = [(one.multiply(one.preparation.quantise(states)) - exact).norm() for one in copies]
    assert errors[0] > errors[1] > errors[2]
    rebuilt = sum(integers * scales for integers, scales in prepared.quantise(states)) / prepared.shrink
    torch.testing.assert_close(rebuilt, states, rtol=0, atol=float(states.abs().max()) / 30_000)


@needs_kernel
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_every_text_stays_close_to_float32(tiny_weights, strategy):
    vectors = {dtype: load(tiny_weights, dtype).encode(TEXTS, strategy, progress=False) for dtype in ("float32", "int8")}
    assert not np.array_equal(vectors["float32"], vectors["int8"])
    assert least_cosine(vectors["float32"], vectors["int8"]) > 0.998


@needs_kernel
def test_a_text_has_the_same_vector_in_any_company(tiny_weights):
    embedder = load(tiny_weights)
    together = embedder.encode(TEXTS, LAST, progress=False)
    alone = np.concatenate([embedder.encode([text], LAST, progress=False) for text in TEXTS])
    assert least_cosine(together, alone) > 0.9999


@needs_kernel
def test_an_adapter_is_quantised_with_the_weights_and_can_be_switched_off(tiny_adapted):
    quantised, exact = load(tiny_adapted), load(tiny_adapted, "float32")
    adapted = exact.encode(TEXTS, LAST, progress=False)
    with base_weights(exact):
        base = exact.encode(TEXTS, LAST, progress=False)
    assert least_cosine(adapted, base) < 0.99  # the adapter matters
    assert least_cosine(quantised.encode(TEXTS, LAST, progress=False), adapted) > 0.998
    with base_weights(quantised):
        assert least_cosine(quantised.encode(TEXTS, LAST, progress=False), base) > 0.998
    assert least_cosine(quantised.encode(TEXTS, LAST, progress=False), adapted) > 0.998


@needs_kernel
def test_the_float_weights_stay_and_changes_to_them_are_seen(tiny_weights):
    embedder = load(tiny_weights)
    before = {name: weight.clone() for name, weight in embedder.backbone.state_dict().items()}
    first = embedder.encode(TEXTS, LAST, progress=False)
    for name, weight in embedder.backbone.state_dict().items():
        assert torch.equal(weight, before[name])
    assert not any("forward" in vars(layer) for layer in embedder.backbone.modules())
    with torch.no_grad():
        for layer in embedder.backbone.layers:
            layer.mlp.down_proj.weight.mul_(-1.0)
    assert least_cosine(first, embedder.encode(TEXTS, LAST, progress=False)) < 0.99


@needs_kernel
def test_what_is_saved_has_the_float_weights(tiny_adapted, tmp_path):
    vectors = []
    for dtype in ("float32", "int8"):
        embedder = load(tiny_adapted, dtype)
        embedder.strategy = LAST
        embedder.encode(TEXTS, progress=False)
        embedder.save(tmp_path / dtype)
        vectors.append(load(tmp_path / dtype, "float32").encode(TEXTS, progress=False))
    np.testing.assert_array_equal(*vectors)
    assert (Path(tmp_path / "int8/model.safetensors").read_bytes()) == (Path(tmp_path / "float32/model.safetensors").read_bytes())


@needs_kernel
def test_what_has_gradients_runs_in_float32(tiny_weights):
    model, exact = load(tiny_weights).sentence_transformer(LAST), load(tiny_weights, "float32").sentence_transformer(LAST)
    outputs = [one(one.preprocess(TEXTS))["sentence_embedding"] for one in (model, exact)]
    assert torch.equal(*outputs)
    outputs[0].sum().backward()
    assert all(layer.mlp.down_proj.weight.grad is not None for layer in model[0].backbone.layers)


@needs_kernel
def test_vectors_of_int8_and_float32_have_different_identities(tiny_weights):
    quantised, exact = load(tiny_weights), load(tiny_weights, "float32")
    assert quantised.number_format == "int8"
    assert quantised.identity == exact.identity  # the weights are the same
    assert quantised.vectors_identity(LAST) != exact.vectors_identity(LAST)
    quantised.eight_bits = False
    assert quantised.vectors_identity(LAST) == exact.vectors_identity(LAST)
    np.testing.assert_array_equal(quantised.encode(TEXTS, LAST, progress=False), exact.encode(TEXTS, LAST, progress=False))


@needs_kernel
def test_shards_in_float32_are_not_taken_for_int8(tiny_weights, tmp_path):
    (path,) = load(tiny_weights, "float32").encode_to_shards(TEXTS, tmp_path, LAST, progress=False)
    before = path.read_bytes()
    load(tiny_weights).encode_to_shards(TEXTS, tmp_path, LAST, progress=False)
    assert path.read_bytes() != before


@needs_kernel
def test_auto_keeps_float32_where_8_bits_change_the_vectors(tiny_weights, monkeypatch, caplog):
    monkeypatch.setattr(device_module, "_fastest_on_cpu", lambda: "int8")
    assert load(tiny_weights, "auto").number_format == "int8"
    monkeypatch.setattr(embedder_module, "_LEAST_COSINE", 1.1)
    caplog.set_level("INFO")
    embedder, exact = load(tiny_weights, "auto"), load(tiny_weights, "float32")
    assert embedder.number_format == "float32"
    assert "is computed in float32: 8-bit products change its vectors to a cosine of " in caplog.text
    assert embedder.tokens_computed == 0
    assert embedder.vectors_identity(LAST) == exact.vectors_identity(LAST)
    np.testing.assert_array_equal(embedder.encode(TEXTS, LAST, progress=False), exact.encode(TEXTS, LAST, progress=False))
    assert load(tiny_weights, "int8").number_format == "int8"  # asked for by name


@needs_kernel
def test_a_model_that_cannot_be_packed_stays_in_float32(tiny_weights, monkeypatch):
    monkeypatch.setattr(Embedder, "can_pack", lambda self: False)
    assert load(tiny_weights).number_format == "float32"


@needs_kernel
def test_only_linear_layers_inside_the_decoder_layers_are_quantised(tiny_weights, tiny_adapted):
    for weights in (tiny_weights, tiny_adapted):
        backbone = load(weights, "float32").backbone
        assert len(QuantisedLayers(backbone)) == 7 * (backbone.config.num_hidden_layers - 1)  # the last layer stays in float32


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({"float32": 1.0, "bfloat16": 0.2, "int8": 4.5}, "int8"),
        ({"float32": 1.0, "bfloat16": 0.2, "int8": 2.7}, "float32"),
        ({"float32": 1.0, "bfloat16": 2.0, "int8": 2.2}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 2.0, "int8": 9.0}, "int8"),
    ],
)
def test_auto_takes_the_fastest_and_int8_only_if_it_is_worth_it(monkeypatch, speeds, chosen):
    monkeypatch.setattr(module, "has_kernel", lambda: True)
    monkeypatch.setattr(device_module, "_products_per_second", lambda name, seconds: speeds[name])
    device_module._fastest_on_cpu.cache_clear()
    try:
        assert choose_format("auto", "cpu") == chosen
    finally:
        device_module._fastest_on_cpu.cache_clear()


@pytest.mark.usefixtures("no_kernel")
def test_auto_does_not_measure_a_kernel_that_is_missing(monkeypatch):
    speeds = {"float32": 1.0, "bfloat16": 0.2}
    monkeypatch.setattr(device_module, "_products_per_second", lambda name, seconds: speeds[name])
    device_module._fastest_on_cpu.cache_clear()
    try:
        assert choose_format("auto", "cpu") == "float32"
    finally:
        device_module._fastest_on_cpu.cache_clear()


@pytest.mark.usefixtures("no_kernel")
def test_int8_is_refused_where_the_kernel_is_missing(tiny_weights):
    with pytest.raises(DeviceError, match=r"'int8' needs exact products of 8-bit integers.*use dtype 'auto' or 'float32'"):
        load(tiny_weights)


def test_a_kernel_that_overflows_counts_as_missing(monkeypatch):
    monkeypatch.setattr(QuantisedWeight, "multiply", lambda self, parts: torch.full((64, 64), 32767.0))
    has_kernel.cache_clear()
    try:
        assert not has_kernel()
    finally:
        has_kernel.cache_clear()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_gpus_have_no_int8(device):
    assert choose_format("auto", device) == "bfloat16"
    with pytest.raises(DeviceError, match=f"'int8' runs on a CPU only, not on '{device}'; use dtype 'auto'"):
        choose_format("int8", device)


@needs_kernel
def test_what_is_not_quantised_is_float32_where_int8_is_chosen():
    assert choose_dtype("int8", "cpu") == torch.float32
