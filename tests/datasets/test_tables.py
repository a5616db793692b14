from __future__ import annotations

import pandas as pd
import pytest
from kedro.io import Version
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.tables import TableStreamDataset
from embedding_adaptation.texts.stream import TextStream

TABLE = pd.DataFrame({"id": ["1", "2", "3"], "text": ["one", "two", "three"]})


def dataset(tmp_path, **options):
    return TableStreamDataset(filepath=str(tmp_path / "t.parquet"), **options)


def test_frames_and_streams_are_saved_and_loaded_either_way(tmp_path):
    dataset(tmp_path).save(TextStream.of(TABLE, 2))
    pd.testing.assert_frame_equal(dataset(tmp_path).load(), TABLE, check_dtype=False)
    dataset(tmp_path).save(TABLE.head(2))
    assert list(dataset(tmp_path, texts=True).load().rows()) == [("1", "one"), ("2", "two")]


def test_versions_are_kept_apart_and_previewed(tmp_path):
    versioned = dataset(tmp_path, version=Version(None, "2030-01-01T00.00.00.000Z"))
    assert not versioned.exists()
    versioned.save(TABLE)
    assert versioned.exists()
    assert versioned.preview(nrows=2)["data"] == [["1", "one"], ["2", "two"]]
    assert (tmp_path / "t.parquet" / "2030-01-01T00.00.00.000Z" / "t.parquet").is_file()


def test_a_failed_save_leaves_nothing(tmp_path):
    def broken():
        yield TABLE
        raise RuntimeError("disk on fire")

    with pytest.raises(DatasetError, match="disk on fire"):
        dataset(tmp_path).save(TextStream(broken))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match="run the pipeline that writes it first"):
        dataset(tmp_path).load()
