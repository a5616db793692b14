from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from embedding_adaptation.checksums import is_intact
from embedding_adaptation.embedder.after_processing import AfterSteps
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
TEXTS = ["the bus is late", "please give back the book", "a house on the street", "water " * 40, "who will help", "bus"]


def test_a_saved_embedder_comes_back_with_strategy_and_after_processing(tiny_embedder, tmp_path):
    template = PromptTemplate("own", "{text} is", bos=True, eos=True)
    strategy = Strategy("mine", (template, ONE_WORD), "attention_weighted", (1, -1), attention_layers=(2,), attention_heads=(0,))
    tiny_embedder.strategy = tiny_embedder.fit(TEXTS, strategy, AfterSteps(remove_components=1, dimensions=16), progress=False)
    tiny_embedder.save(tmp_path / "saved")
    loaded = Embedder.load(tmp_path / "saved", device="cpu", dtype="float32")
    assert loaded.strategy == tiny_embedder.strategy
    assert loaded.max_length == 64
    vectors = loaded.encode(TEXTS, progress=False)
    assert vectors.shape == (6, 16)
    np.testing.assert_allclose(vectors, tiny_embedder.encode(TEXTS, progress=False), atol=1e-6)
    with pytest.raises(FileExistsError, match="already exists"):
        tiny_embedder.save(tmp_path / "saved")


def test_an_adapter_is_merged_when_saved(tiny_embedder, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    tiny_embedder.backbone = get_peft_model(tiny_embedder.backbone, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    expected = tiny_embedder.encode(TEXTS, progress=False)
    tiny_embedder.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "adapter_config.json").exists()
    np.testing.assert_allclose(Embedder.load(tmp_path / "saved", dtype="float32").encode(TEXTS, progress=False), expected, atol=1e-5)
    np.testing.assert_array_equal(tiny_embedder.encode(TEXTS, progress=False), expected)


def test_three_lines_embed_texts_with_a_folder_a_gguf_file_or_a_setting(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Embedder.load(str(tiny_weights.base), device="cpu", dtype="float32").encode(TEXTS, progress=False)
    assert folder.shape == (6, 32)
    made = Embedder.load("random:tiny-llama", device="cpu", dtype="float32").encode(TEXTS, progress=False)
    np.testing.assert_allclose(made, folder, atol=1e-6)
    assert len(list((tmp_path / "embedding-adaptation").glob("*/[!.]*"))) == 1
    Embedder.load("random:tiny-llama", device="cpu", dtype="float32")
    assert len(list((tmp_path / "embedding-adaptation").glob("*/[!.]*"))) == 1


def test_conversions_of_an_older_format_are_told_of_and_made_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    older = tmp_path / "embedding-adaptation" / "0123456789abcdef01234567"
    older.mkdir(parents=True)
    for _ in range(2):
        Embedder.load("random:tiny-llama", device="cpu", dtype="float32")
    (told,) = (message for message in caplog.messages if "a format other" in message)
    assert told.startswith(f"{older.parent} contains data in a format other than 3")
    assert older.is_dir()


def test_a_saved_embedder_of_a_later_format_is_refused(tiny_embedder, tmp_path):
    tiny_embedder.save(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "embedder.json").read_text()) | {"format": 3}
    (tmp_path / "saved" / "embedder.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="has format 3, but this version reads 1 and 2"):
        Embedder.load(tmp_path / "saved")


def test_two_processes_convert_a_source_once(tiny_weights, tmp_path, monkeypatch):
    """The second waits, and takes what the first has made."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    from embedding_adaptation.embedder import storage

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModel.from_pretrained(tiny_weights.base), lora).save_pretrained(tmp_path / "adapter")
    convert, calls, places, both = storage.convert, [], [], threading.Barrier(2)

    def slow(source, target):
        calls.append(target)
        time.sleep(0.2)
        return convert(source, target)

    def look(target):
        if not calls:
            both.wait(timeout=10)  # both have seen that there is none
        return is_intact(target)

    def resolve():
        places.append(storage.resolve_source(tmp_path / "adapter").model)

    # transformers does not load in two threads at once.
    source = storage.check_source(str(tmp_path / "adapter"))
    monkeypatch.setattr(storage, "check_source", lambda setting: source)
    monkeypatch.setattr(storage, "convert", slow)
    first_looks = iter([True, True])
    monkeypatch.setattr(storage, "is_intact", lambda target: look(target) if next(first_looks, False) else is_intact(target))
    threads = [threading.Thread(target=resolve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(places) == 2
    assert places[0] == places[1]
    assert is_intact(Path(places[0]))
