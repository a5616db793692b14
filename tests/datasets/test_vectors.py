from __future__ import annotations

import numpy as np
import pytest
from kedro.io.core import DatasetError
from safetensors.numpy import save_file

from embedding_adaptation.datasets.vectors import FinishedShards, VectorsDataset
from embedding_adaptation.datasets.versioned import KeptVersion


def shards(folder, *fingerprints):
    folder.mkdir(exist_ok=True)
    files = []
    for number, fingerprint in enumerate(fingerprints):
        files.append(folder / f"shard-{number:06d}.safetensors")
        save_file({"vectors": np.full((2, 3), number + 1, np.float32)}, files[-1], metadata={"fingerprint": fingerprint})
    return tuple(files)


def test_shards_load_as_they_were_saved_with_what_is_known_of_them(tmp_path):
    dataset = VectorsDataset(filepath=str(tmp_path / "vectors"))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match="there are no vectors"):
        dataset.load()
    dataset.save(FinishedShards(shards(tmp_path / "vectors", "a", "b"), {"strategy": "s"}))
    store = dataset.load()
    assert dataset.exists()
    assert (store.rows, store.dimension, store.facts) == (4, 3, {"strategy": "s"})


def test_shards_of_an_earlier_longer_corpus_are_removed(tmp_path):
    dataset = VectorsDataset(filepath=str(tmp_path / "vectors"))
    files = shards(tmp_path / "vectors", "a", "b", "c")
    dataset.save(FinishedShards(files[:2], {}))
    assert not files[2].exists()
    assert dataset.load().rows == 4


def test_shards_that_another_run_has_replaced_are_not_taken_for_the_saved_ones(tmp_path):
    dataset = VectorsDataset(filepath=str(tmp_path / "vectors"))
    dataset.save(FinishedShards(shards(tmp_path / "vectors", "a", "b"), {}))
    shards(tmp_path / "vectors", "a", "other")
    with pytest.raises(DatasetError, match=r"shard-000001\.safetensors is not the one that was saved"):
        dataset.load()


def test_a_file_made_elsewhere_is_read_and_never_written(tmp_path):
    np.save(tmp_path / "mine.npy", np.ones((5, 3), np.float32))
    dataset = VectorsDataset(filepath=str(tmp_path / "mine.npy"))
    assert dataset.load().rows == 5
    assert dataset.exists()
    with pytest.raises(DatasetError, match="--from-nodes=cluster_texts_node"):
        dataset.save(FinishedShards((), {}))
    with pytest.raises(DatasetError, match="does not exist"):
        VectorsDataset(filepath=str(tmp_path / "none.npy")).load()


def test_the_identity_of_vectors_is_that_of_their_files(tmp_path):
    def saved(folder, *fingerprints, value=None, facts=None):
        files = shards(tmp_path / folder, *fingerprints)
        if value is not None:
            save_file({"vectors": np.full((2, 3), value, np.float32)}, files[-1], metadata={"fingerprint": fingerprints[-1]})
        dataset = VectorsDataset(filepath=str(tmp_path / folder))
        dataset.save(FinishedShards(files, facts or {}))
        return dataset.content_identity()

    first = saved("one", "a", "b")
    assert saved("two", "a", "b") == first
    assert (
        len({first, saved("three", "a", "c"), saved("four", "a"), saved("five", "a", "b", value=9), saved("six", "a", "b", facts={"x": 1})})
        == 5
    )
    (tmp_path / "one" / "shard-000001.safetensors").unlink()
    with pytest.raises(DatasetError, match="shard-000001"):
        VectorsDataset(filepath=str(tmp_path / "one")).content_identity()
    for name, value in (("mine.npy", 1), ("same.npy", 1), ("other.npy", 2)):
        np.save(tmp_path / name, np.full((5, 3), value, np.float32))
    mine, same, other = (VectorsDataset(filepath=str(tmp_path / f"{name}.npy")).content_identity() for name in ("mine", "same", "other"))
    assert mine == same != other


def test_vectors_that_are_kept_stay_as_they_are(tmp_path):
    dataset = VectorsDataset(filepath=str(tmp_path / "vectors"))
    dataset.save(FinishedShards(shards(tmp_path / "vectors", "a", "b"), {"strategy": "s"}))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()}
    dataset.save(KeptVersion(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()} == before
