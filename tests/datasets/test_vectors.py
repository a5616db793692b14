from __future__ import annotations

import numpy as np
import pytest
from kedro.io.core import DatasetError
from safetensors.numpy import save_file

from embedding_adaptation.datasets.vectors import FinishedShards, VectorsDataset


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
