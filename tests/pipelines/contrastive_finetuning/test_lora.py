from __future__ import annotations

import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.lora import add_adapter, load_adapter
from embedding_adaptation.pipelines.contrastive_finetuning.options import LoraOptions


def trainable(embedder):
    return [name for name, weight in embedder.backbone.named_parameters() if weight.requires_grad]


def test_only_the_adapter_trains_on_every_linear_layer(tiny_embedder):
    add_adapter(tiny_embedder, LoraOptions(layers="all"))
    names = trainable(tiny_embedder)
    assert all("lora_" in name for name in names)
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(names) == 2 * len(linear) * tiny_embedder.backbone.config.num_hidden_layers
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == linear


@pytest.mark.parametrize(
    ("layers", "expected"), [("all", [0, 1, 2]), ("upper_half", [1, 2]), ("upper_third", [2]), ([0, -1], [0, 2])], ids=str
)
def test_the_adapter_sits_on_the_chosen_layers_only(tiny_embedder, layers, expected):
    first = add_adapter(tiny_embedder, LoraOptions(layers=layers))
    assert sorted({int(name.split("layers.")[1].split(".")[0]) for name in trainable(tiny_embedder)}) == expected
    assert first == expected[0]


def test_the_adapter_sits_on_the_chosen_modules_only(tiny_embedder):
    add_adapter(tiny_embedder, LoraOptions(layers="all", target_modules=["q_proj", "v_proj"]))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trainable(tiny_embedder)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"layers": [7]}, "unknown layer 7 in contrastive_finetuning.lora.layers; choose from 0 to 2"),
        ({"target_modules": ["w_q"]}, "unknown module 'w_q' in contrastive_finetuning.lora.target_modules; choose from down_proj"),
    ],
)
def test_layers_and_modules_that_are_not_there_are_named(tiny_embedder, lora, message):
    with pytest.raises(ValueError, match=message):
        add_adapter(tiny_embedder, LoraOptions(**lora))


def test_rank_stabilised_and_weight_decomposed_adapters_are_made(tiny_embedder):
    add_adapter(tiny_embedder, LoraOptions(rank_stabilised=True, weight_decomposed=True, rank=4, alpha=8))
    config = tiny_embedder.backbone.peft_config["default"]
    assert (config.use_rslora, config.use_dora) == (True, True)
    assert any("lora_magnitude_vector" in name for name in trainable(tiny_embedder))


def test_an_adapter_is_read_back_and_one_of_other_layers_is_refused(tiny_weights, tmp_path):
    from embedding_adaptation.embedder.embedder import Embedder

    written, read, lower = (Embedder.load(tiny_weights, device="cpu", dtype="float32") for _ in range(3))
    for embedder, layers in ((written, "upper_half"), (read, "upper_half"), (lower, [0])):
        add_adapter(embedder, LoraOptions(layers=layers))
    with torch.no_grad():
        for name, weight in written.backbone.named_parameters():
            if "lora_" in name:
                weight.normal_()
    written.backbone.save_pretrained(tmp_path)
    load_adapter(read.backbone, tmp_path)
    after = dict(read.backbone.named_parameters())
    assert all(torch.equal(weight, after[name]) for name, weight in written.backbone.named_parameters())
    with pytest.raises(RuntimeError, match="does not fit this adapter"):
        load_adapter(lower.backbone, tmp_path)
