from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from kedro.io import Version
from kedro.io.core import DatasetError
from safetensors.numpy import save_file

from embedding_adaptation.datasets.embeddings import Embeddings, EmbeddingsDataset
from embedding_adaptation.embedder.after_processing import AfterProcessing

VALUE = Embeddings(("1", "ü"), {"prompted": np.arange(6, dtype=np.float32).reshape(2, 3)}, weights="abc", identities={"prompted": "p"})


def test_ids_and_vectors_come_back_in_order(tmp_path):
    dataset = EmbeddingsDataset(filepath=str(tmp_path / "e.safetensors"), version=Version(None, "2026-01-01T00.00.00.000Z"))
    dataset.save(VALUE)
    loaded = dataset.load()
    assert loaded.ids == VALUE.ids
    assert loaded.weights == "abc"
    assert loaded.identities == {"prompted": "p"}
    np.testing.assert_array_equal(loaded.vectors["prompted"], VALUE.vectors["prompted"])
    assert dataset.exists()
    assert [path.name for path in tmp_path.rglob(".*")] == [".e.safetensors.xxh128"]


def test_rows_and_ids_must_match():
    with pytest.raises(ValueError, match=r"strategy 'prompted' has vectors of shape \(2, 3\) for 3 texts"):
        Embeddings(("1", "2", "3"), VALUE.vectors)


def test_a_strategy_is_known_by_what_it_is_and_not_by_its_name(caplog):
    vectors = {name: np.full((1, 2), number, np.float32) for number, name in enumerate("ab")}
    fitted = AfterProcessing(np.zeros(2, np.float32), None, 2)
    value = Embeddings(("1",), vectors, identities={"a": "A", "b": "B"}, after={"a": fitted})
    renamed = value.renamed({"c": "A", "a": "B", "d": "D"})
    assert {name: matrix[0, 0] for name, matrix in renamed.vectors.items()} == {"c": 0, "a": 1}
    assert renamed.identities == {"c": "A", "a": "B"}
    assert renamed.after == {"c": fitted}
    assert caplog.messages == []
    assert value.renamed({"a": "other"}).vectors == {}
    assert "strategies 'a' have changed since they were embedded" in caplog.text
    assert set(Embeddings(("1",), vectors).renamed({"c": "A"}).vectors) == {"a", "b"}


@pytest.mark.parametrize("names", [(), ("prompted",), ("prompted", "b.last.-1.whiten")])
def test_after_processing_comes_back_with_the_vectors(tmp_path, names):
    saved = {
        name: AfterProcessing(np.full(4, i, np.float32), np.eye(4, 2, dtype=np.float32) if i else None, 2 + 2 * (i == 0))
        for i, name in enumerate(names)
    }
    dataset = EmbeddingsDataset(filepath=str(tmp_path / "e.safetensors"))
    dataset.save(dataclasses.replace(VALUE, after=saved))
    loaded = dataset.load()
    assert set(loaded.vectors) == set(VALUE.vectors)
    assert set(loaded.after) == set(names)
    for name, after in loaded.after.items():
        assert after.dimensions == saved[name].dimensions
        np.testing.assert_array_equal(after.mean, saved[name].mean)
        assert (after.matrix is None) == (saved[name].matrix is None)


def test_a_file_of_an_earlier_version_is_recognised(tmp_path):
    path = tmp_path / "e.safetensors"
    save_file(VALUE.vectors, path, metadata={"ids": '["1", "2"]', "weights": "ab" * 32})
    with pytest.raises(DatasetError, match="is not in format 4, the only one this version reads; run embedding_extraction again"):
        EmbeddingsDataset(filepath=str(path)).load()


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "e.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(DatasetError, match="is not an embeddings file of this project"):
        EmbeddingsDataset(filepath=str(path)).load()


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    import safetensors.numpy

    def full_disk(tensors, path, metadata):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full_disk)
    with pytest.raises(DatasetError, match="No space left"):
        EmbeddingsDataset(filepath=str(tmp_path / "e.safetensors")).save(VALUE)
    assert list(tmp_path.iterdir()) == []
