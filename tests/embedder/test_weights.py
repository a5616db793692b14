from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from embedding_adaptation.embedder.checkpoint import BaseModelError
from embedding_adaptation.embedder.weights import base_sha256
from embedding_adaptation.identity import is_of_older_format


@pytest.fixture
def adapted(tiny_adapted, tmp_path):
    """The tiny model's adapter in a folder of its own."""
    shutil.copytree(tiny_adapted.adapter, tmp_path / "adapter")
    return dataclasses.replace(tiny_adapted, adapter=tmp_path / "adapter")


def configure(weights, **changes):
    file = weights.adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_adapter_is_known_by_its_weights_and_configuration_wherever_it_lies(adapted, tiny_adapted, tiny_weights):
    assert adapted.fingerprint() == tiny_adapted.fingerprint() != tiny_weights.fingerprint()
    assert not is_of_older_format(adapted.fingerprint())
    tensors = load_file(adapted.adapter / "adapter_model.safetensors")
    tensors[min(tensors)] += 1.0
    save_file(tensors, adapted.adapter / "adapter_model.safetensors")
    assert adapted.fingerprint() != tiny_adapted.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"lora_alpha": 16},
        {"r": 4},
        {"use_rslora": True},
        {"use_dora": True},
        {"bias": "all"},
        {"fan_in_fan_out": True},
        {"target_modules": ["q_proj"]},
        {"layers_to_transform": [0]},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"modules_to_save": ["norm"]},
        {"something_that_a_later_peft_adds": 1},
    ],
)
def test_everything_in_its_configuration_that_changes_vectors_counts(adapted, change):
    before = adapted.fingerprint()
    configure(adapted, **change)
    assert adapted.fingerprint() != before


def test_nothing_else_in_its_configuration_counts(adapted):
    before = adapted.fingerprint()
    modules = json.loads((adapted.adapter / "adapter_config.json").read_text())["target_modules"]
    assert len(modules) > 1
    configure(adapted, base_model_name_or_path="elsewhere", inference_mode=False, lora_dropout=0.5, peft_version="9", later_and_off=False,
              target_modules=modules[::-1])  # fmt: skip
    (adapted.adapter / "optimizer.safetensors").write_bytes(b"of a checkpoint that training can go on from")
    assert adapted.fingerprint() == before


def test_an_adapter_is_known_by_its_files(tiny_weights, tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    adapted = dataclasses.replace(tiny_weights, adapter=tmp_path)
    before = adapted.fingerprint()
    (tmp_path / "adapter_config.json").write_text("{}")
    assert adapted.fingerprint() != before != tiny_weights.fingerprint()


def test_a_folder_has_the_hash_of_its_card_or_of_its_files(tiny_weights, tmp_path):
    assert base_sha256(tiny_weights.base) == tiny_weights.card.sha256
    folder = shutil.copytree(tiny_weights.base, tmp_path / "model")
    (folder / "card.json").unlink()
    by_files = base_sha256(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert base_sha256(folder) != by_files
    (folder / "card.json").write_text("{}")
    with pytest.raises(BaseModelError, match=r"card.json lacks 'source'"):
        base_sha256(folder)


def test_weights_share_a_base_whatever_their_adapters(tiny_weights, tiny_adapted):
    assert tiny_adapted.shares_base(tiny_weights)
    other = dataclasses.replace(tiny_weights, card=dataclasses.replace(tiny_weights.card, sha256="other"))
    assert not tiny_adapted.shares_base(other)
