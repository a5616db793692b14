from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.shards import ShardsDataset
from embedding_adaptation.datasets.versioned import KeptVersion

FRAME = pd.DataFrame({"text": ["one"]})


def test_nothing_there_loads_as_nothing(tmp_path):
    dataset = ShardsDataset(filepath=str(tmp_path / "none"))
    assert dataset.load() == {}
    assert not dataset.exists()


def test_saving_adds_shards_and_replaces_those_of_the_same_name(tmp_path):
    dataset = ShardsDataset(filepath=str(tmp_path))
    dataset.save({"run/00000": FRAME})
    dataset.save({"run/00001": FRAME, "run/00000": FRAME.assign(text="two")})
    loaded = dataset.load()
    assert list(loaded) == ["run/00000", "run/00001"]
    assert loaded["run/00000"]["text"].tolist() == ["two"]


def test_a_failed_write_leaves_the_old_shard_and_no_rest(tmp_path, monkeypatch):
    dataset = ShardsDataset(filepath=str(tmp_path))
    dataset.save({"a": FRAME})

    def full_disk(self, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full_disk)
    with pytest.raises(DatasetError, match="No space left"):
        dataset.save({"a": FRAME})
    monkeypatch.undo()
    assert dataset.load()["a"].equals(FRAME)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.parquet.xxh128", "a.parquet"]


def test_a_name_may_not_leave_the_directory(tmp_path):
    with pytest.raises(DatasetError, match="leaves the directory"):
        ShardsDataset(filepath=str(tmp_path / "in")).save({"../out": FRAME})


def flipped(content):
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 4
    return bytes(changed)


@pytest.mark.parametrize("change", [lambda content: content[:-9], lambda content: bytes(len(content)), flipped])
def test_a_damaged_shard_counts_as_not_there_until_it_is_written_again(tmp_path, change, caplog):
    dataset = ShardsDataset(filepath=str(tmp_path))
    dataset.save({"run/00000": FRAME, "run/00001": FRAME})
    file = tmp_path / "run" / "00001.parquet"
    file.write_bytes(change(file.read_bytes()))
    loaded = dataset.load()
    assert list(loaded) == ["run/00000"]
    assert loaded.damaged == {"run/00001"}
    assert "00001.parquet is damaged" in caplog.text
    dataset.save({"run/00001": FRAME})
    assert list(dataset.load()) == ["run/00000", "run/00001"]


def test_the_identity_of_shards_is_that_of_their_contents_and_of_reused_ones_there_is_none(tmp_path):
    dataset = ShardsDataset(filepath=str(tmp_path))
    empty = dataset.content_identity()
    dataset.save({"run/1": FRAME})
    one = dataset.content_identity()
    dataset.save({"run/2": FRAME})
    two = dataset.content_identity()
    dataset.save({"run/2": FRAME.assign(text="two")})
    assert len({empty, one, two, dataset.content_identity()}) == 4
    dataset.save({"run/2": FRAME})
    assert dataset.content_identity() == two
    dataset.save(KeptVersion(tmp_path))
    assert dataset.content_identity() == two
    (tmp_path / "run" / "2.parquet").write_bytes(b"damaged")
    assert dataset.content_identity() == one
    assert ShardsDataset(filepath=str(tmp_path), optional=True).content_identity() == ""
