from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from kedro.io import Version
from kedro.io.core import DatasetError

from embedding_adaptation.checksums import checksum_file
from embedding_adaptation.datasets.adapter import (
    ADAPTER_CARD_FILE,
    AdapterDataset,
    OptionalAdapterDataset,
    TrainedAdapter,
    read_adapter_card,
)
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

STRATEGY = Strategy("prompted", PromptTemplate("one_word", 'This: "{text}" means: "'), "last")


@pytest.fixture
def saved(tiny_weights, tmp_path):
    """A project folder with a base model and an adapter that changes its vectors."""
    from peft import LoraConfig, get_peft_model

    base = tmp_path / "base_model" / "1" / "base_model"
    shutil.copytree(tiny_weights.base, base)
    embedder = Embedder.load(tiny_weights, device="cpu", dtype="float32")
    torch.manual_seed(0)
    embedder.backbone = get_peft_model(embedder.backbone, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    dataset = AdapterDataset(filepath=str(tmp_path / "adapter"), base_model="base_model", version=Version(None, "2"))
    dataset.save(TrainedAdapter(embedder.backbone, tiny_weights.card, "{text}", "last", 64, 3))
    return dataset, embedder


def test_a_reloaded_adapter_gives_the_same_vectors(saved, tiny_weights):
    dataset, trained = saved
    weights = dataset.load()
    texts = ["the bus is late", "water"]
    loaded = Embedder.load(weights, device="cpu", dtype="float32").encode_strategies(texts, [STRATEGY], progress=False)["prompted"]
    expected = trained.encode_strategies(texts, [STRATEGY], progress=False)["prompted"]
    base = Embedder.load(tiny_weights, device="cpu", dtype="float32").encode_strategies(texts, [STRATEGY], progress=False)["prompted"]
    np.testing.assert_allclose(loaded, expected, atol=1e-6)
    assert np.abs(loaded - base).max() > 1e-3


def test_the_folder_names_the_base_model_and_holds_no_path(saved, tmp_path):
    dataset, _ = saved
    folder = dataset.load().adapter
    card = json.loads((folder / ADAPTER_CARD_FILE).read_text())
    assert card["base"]["source"] == "random:tiny-llama"
    assert (card["steps"], card["pooling"]) == (3, "last")
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".md"}
    assert all(str(tmp_path) not in path.read_text() for path in folder.glob("*.json"))


def test_a_missing_base_model_is_named(saved, tmp_path):
    dataset, _ = saved
    shutil.rmtree(tmp_path / "base_model")
    with pytest.raises(DatasetError, match="belongs to the base model 'random:tiny-llama'"):
        dataset.load()


def test_the_card_of_an_adapter_is_read_and_base_weights_have_none(saved, tiny_weights):
    dataset, _ = saved
    assert read_adapter_card(dataset.load())["steps"] == 3
    with pytest.raises(ValueError, match="'random:tiny-llama' has no adapter"):
        read_adapter_card(tiny_weights)


def test_the_fingerprint_is_that_of_base_and_adapter_weights(saved, tiny_weights):
    from safetensors.numpy import load_file, save_file

    weights = saved[0].load()
    before = weights.fingerprint()
    assert before != tiny_weights.fingerprint()
    assert before == saved[0].load().fingerprint()
    file = weights.adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[min(tensors)] += 1.0
    save_file(tensors, file)
    assert weights.fingerprint() != before


def test_the_project_can_be_moved(saved, tmp_path):
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    weights = AdapterDataset(filepath=str(moved / "adapter"), base_model="base_model", version=Version(None, None)).load()
    assert weights.base.is_relative_to(moved)


def test_the_optional_adapter_is_there_or_none_and_is_never_written(saved, tmp_path):
    dataset, _ = saved
    folder = str(tmp_path / "adapter")
    there = OptionalAdapterDataset(filepath=folder, base_model="base_model", version=Version(None, None))
    assert there.load().adapter == dataset.load().adapter
    none = OptionalAdapterDataset(filepath=str(tmp_path / "none"), base_model="base_model", version=Version(None, None))
    assert none.load() is None
    with pytest.raises(DatasetError, match="the dataset adapter"):
        there.save(dataset.load())
    asked = OptionalAdapterDataset(filepath=folder, base_model="base_model", version=Version("1999-01-01T00.00.00.000Z", None))
    with pytest.raises(DatasetError):
        asked.load()


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not valid JSON"), ("{}", "lacks 'base'"), ('{"base": []}', "has unexpected contents")]
)
def test_a_damaged_card_is_named_in_one_sentence(saved, text, message):
    dataset, _ = saved
    folder = dataset.load().adapter
    checksum_file(folder).unlink()
    (folder / ADAPTER_CARD_FILE).write_text(text)
    with pytest.raises(DatasetError, match=rf"adapter_card\.json {message}"):
        dataset.load()
