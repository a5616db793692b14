from __future__ import annotations

import numpy as np
import pytest
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.embedding_store import EmbeddingStore, EmbeddingStoreDataset

TEXTS = ["one", "two", "three", "\ud800 half a character"]
VECTORS = np.arange(8, dtype=np.float32).reshape(4, 2)


def test_vectors_come_back_in_any_order_in_another_process(tmp_path):
    EmbeddingStore(tmp_path).add("key", TEXTS[:2], VECTORS[:2])
    EmbeddingStore(tmp_path).add("key", TEXTS[2:], VECTORS[2:])
    store = EmbeddingStore(tmp_path)
    assert store.missing("key", [*TEXTS, "new", "new"]) == ["new"]
    np.testing.assert_array_equal(store.vectors("key", [TEXTS[3], "one", "one", "two"]), VECTORS[[3, 0, 0, 1]])
    assert store.vectors("key", []).shape == (0, 0)


def test_what_was_added_is_there_at_once_and_for_its_key_only(tmp_path):
    store = EmbeddingStore(tmp_path)
    assert store.missing("key", TEXTS) == TEXTS
    store.add("key", TEXTS, VECTORS)
    assert store.missing("key", TEXTS) == []
    assert store.missing("other", TEXTS) == TEXTS
    with pytest.raises(KeyError):
        store.vectors("other", ["one"])


def test_a_vector_with_a_flipped_bit_is_made_again(tmp_path, caplog):
    EmbeddingStore(tmp_path).add("key", TEXTS, VECTORS)
    (file,) = tmp_path.glob("*/key/*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # in the last vector: safetensors would not notice
    file.write_bytes(content)
    store = EmbeddingStore(tmp_path)
    assert store.missing("key", TEXTS) == TEXTS
    assert f"{file} is damaged" in caplog.text
    store.add("key", TEXTS, VECTORS)
    np.testing.assert_array_equal(EmbeddingStore(tmp_path).vectors("key", TEXTS), VECTORS)


def test_the_dataset_gives_the_store_and_saves_nothing(tmp_path):
    dataset = EmbeddingStoreDataset(filepath=str(tmp_path), metadata={"a": 1})
    assert dataset.exists()
    assert dataset.load().folder.parent == tmp_path
    with pytest.raises(DatasetError, match="add method"):
        dataset.save("x")


def test_vectors_of_an_older_format_are_told_of_once_and_made_again(tmp_path, caplog):
    old = tmp_path / "0123456789abcdef" / "shard.safetensors"
    old.parent.mkdir()
    old.write_bytes(b"vectors as an earlier version kept them")
    store = EmbeddingStore(tmp_path)
    assert store.missing("key", TEXTS) == TEXTS
    store.add("key", TEXTS[:2], VECTORS[:2])
    EmbeddingStore(tmp_path).add("key", TEXTS[2:], VECTORS[2:])
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path} contains data in a format other than")
    assert old.is_file()
    np.testing.assert_array_equal(EmbeddingStore(tmp_path).vectors("key", TEXTS), VECTORS)
