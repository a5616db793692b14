"""A folder that is not whole is refused with one sentence, before anything is loaded."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from embedding_adaptation.embedder.base_model import BaseModelError, check_source, convert
from embedding_adaptation.embedder.checkpoint import describe_gaps, safetensors_header

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


@pytest.fixture
def folder(tiny_weights, tmp_path):
    """A copy of the tiny model's folder."""
    target = tmp_path / "model"
    shutil.copytree(tiny_weights.base, target)
    return target


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_tensors(folder, change):
    file = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file, metadata={"format": "pt"})


def without(*parts):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}


def into_shards(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    return sorted(folder.glob("model-*.safetensors"))


def index_of(folder, change):
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))


def cut(file, share=0.9):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def refusal(folder) -> str:
    with pytest.raises(BaseModelError) as caught:
        check_source(str(folder))
    message = str(caught.value)
    assert message.startswith(f"base_model {str(folder)!r}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change_tensors(f, without("layers.2.")), "9 tensors missing from the weights: model.layers.2.input_layernorm.weight"),
        (
            lambda f: change_tensors(f, without("layers.0.mlp.up_proj")),
            "1 tensor missing from the weights: model.layers.0.mlp.up_proj.weight",
        ),
        (lambda f: change_tensors(f, without("model.norm", "embed")), "missing from the weights: .*model.embed_tokens.weight, model.norm"),
        (lambda f: change_config(f, num_hidden_layers=2), "contain 9 tensors that the configuration has no place for: model.layers.2"),
        (lambda f: change_config(f, num_hidden_layers=5), "18 tensors missing from the weights: model.layers.3"),
        (
            lambda f: change_config(f, intermediate_size=128),
            r"9 tensors of a different shape .*down_proj.weight \(\[32, 64\] in the file, \[32, 128\]",
        ),
        (lambda f: change_config(f, vocab_size=500), r"embed_tokens.weight \(\[400, 32\] in the file, \[500, 32\] expected\)"),
        (lambda f: change_tensors(f, lambda t: {f"outer.{n}": x for n, x in t.items()}), "have an extra 'outer.' in front"),
        (lambda f: change_tensors(f, lambda t: t | {"vision.weight": torch.ones(2)}), "no place for: vision.weight"),
        (lambda f: change_config(f, model_type="qwen2", architectures=["Qwen2ForCausalLM"]), "9 tensors missing .*k_proj.bias"),
        (lambda f: change_tensors(f, lambda t: t | {"model.norm.weight": torch.ones(32, dtype=torch.int8)}), "is stored as I8"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(folder, damage, message):
    damage(folder)

    found = refusal(folder)
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "model.safetensors"), r"model.safetensors is truncated: it has [\d,]+ of [\d,]+ bytes"),
        (lambda f: cut(f / "model.safetensors", 0.001), "model.safetensors is truncated: it has 1"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100), "model.safetensors is not a safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is not a safetensors file"),
        (lambda f: (f / "model.safetensors").write_text(POINTER), "model.safetensors is a Git LFS pointer"),
        (lambda f: (f / "tokenizer.json").write_text(POINTER), "tokenizer.json is a Git LFS pointer"),
        (lambda f: (f / "config.json").write_text(POINTER), "config.json is a Git LFS pointer"),
        (lambda f: cut(f / "config.json"), "config.json is not valid JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json contains a list, not a JSON object"),
        (lambda f: (f / "config.json").write_bytes(b'{"a": "\xe9"}'), "config.json is not UTF-8 text"),
        (lambda f: cut(f / "tokenizer.json"), "tokenizer.json is not valid JSON"),
        (lambda f: cut(f / "tokenizer_config.json"), "tokenizer_config.json is not valid JSON"),
        (lambda f: change_config(f, hidden_size="wide"), "config.json cannot be used"),
    ],
)
def test_a_damaged_file_is_named(folder, damage, message):
    damage(folder)

    found = refusal(folder)
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f, s: s[1].unlink(), "1 of the 4 shards listed in model.safetensors.index.json is missing: model-00002-of-00004"),
        (lambda f, s: (f / "model.safetensors.index.json").unlink(), "it contains 4 of 4 shards but no model.safetensors.index.json"),
        (lambda f, s: (f / "model.safetensors.index.json").write_text(POINTER), "index.json is a Git LFS pointer"),
        (lambda f, s: index_of(f, lambda i: i["weight_map"].popitem()), "does not list"),
        (lambda f, s: index_of(f, lambda i: i.pop("weight_map")), "has no weight_map"),
        (lambda f, s: shutil.copy(s[0], s[1]), r"is in both model-00001-of-00004.safetensors and model-00002"),
        (
            lambda f, s: index_of(f, lambda i: i["weight_map"].update(more="model-00001-of-00004.safetensors")),
            "puts more in .* in no shard",
        ),
        (lambda f, s: index_of(f, lambda i: i["weight_map"].update(more="../secret.safetensors")), "which is not in its folder"),
        (lambda f, s: cut(s[2]), "model-00003-of-00004.safetensors is truncated"),
    ],
)
def test_shards_and_index_must_go_together(folder, damage, message):

    shards = into_shards(folder)
    check_source(str(folder))
    damage(folder, shards)
    found = refusal(folder)
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"\(gptq\).*without -GPTQ"),
        ({"quant_method": "awq", "bits": 4}, r"\(awq\).*without -AWQ"),
        ({"load_in_4bit": True}, r"\(bitsandbytes\)"),
        ({"quant_method": "fp8"}, r"\(fp8\)"),
        ({"quant_method": "newest"}, r"\(newest\)"),
    ],
)
def test_a_quantised_checkpoint_is_refused_with_what_to_give_instead(folder, settings, name):

    change_config(folder, quantization_config=settings)
    assert re.search(f"the checkpoint is quantised {name}.*or a GGUF file", refusal(folder))


def test_other_weights_in_the_folder_are_not_read(folder, tmp_path):
    (folder / "consolidated.safetensors").write_text("something else")
    target = tmp_path / "out"
    target.mkdir()
    assert convert(check_source(str(folder)), target).parameters > 10_000


def test_buffers_that_older_versions_saved_are_no_reason_to_refuse(folder):
    change_tensors(folder, lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    check_source(str(folder))


def test_a_header_whose_sizes_do_not_fit_is_noticed(tmp_path):
    file = tmp_path / "a.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(BaseModelError, match=r"x of shape \[3\] in F32 takes up 8 bytes"):
        safetensors_header(file)


def test_many_missing_tensors_are_named_in_the_order_of_their_layers():
    names = [f"layers.{number}.weight" for number in (10, 9, 2, 30)]
    assert "layers.2.weight, layers.9.weight, layers.10.weight ..." in str(describe_gaps(names, [], []))
    assert describe_gaps([], [], []) is None
