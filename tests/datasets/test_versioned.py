from __future__ import annotations

import pandas as pd
import pytest
from kedro.io import Version
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.base_model import BaseModelDataset
from embedding_adaptation.datasets.clusters import ClustersDataset
from embedding_adaptation.datasets.csv_table import CSVTableDataset
from embedding_adaptation.datasets.embeddings import EmbeddingsDataset
from embedding_adaptation.datasets.pandas_files import CSVDataset, ParquetDataset
from embedding_adaptation.datasets.reports import JSONDataset
from embedding_adaptation.datasets.tables import TableStreamDataset
from embedding_adaptation.datasets.text_files import TextDataset

FRAME = pd.DataFrame({"text": ["one", "two"], "number": [1, 2]})
KINDS = [
    (CSVDataset, FRAME, {"save_args": {"index": False}}),
    (ParquetDataset, FRAME, {}),
    (JSONDataset, {"a": [1]}, {}),
    (TextDataset, "text", {}),
]


def make(kind, tmp_path, save, more, load=None):
    return kind(filepath=str(tmp_path / "x.data"), version=Version(load, save), **more)


@pytest.mark.parametrize(("kind", "value", "more"), KINDS)
def test_what_is_saved_is_loaded(tmp_path, kind, value, more):
    dataset = make(kind, tmp_path, "1", more)
    dataset.save(value)
    loaded = make(kind, tmp_path, "2", more).load()
    assert loaded.equals(value) if isinstance(value, pd.DataFrame) else loaded == value
    assert [path.name for path in (tmp_path / "x.data" / "1").glob("[!.]*")] == ["x.data"]
    with pytest.raises(DatasetError, match="must not exist"):
        dataset.save(value)


@pytest.mark.parametrize("error", [RuntimeError("broken off"), KeyboardInterrupt()])
def test_a_save_that_is_broken_off_in_the_middle_is_no_version(tmp_path, monkeypatch, error):
    make(CSVDataset, tmp_path, "1", {}).save(FRAME)

    def half(self, path_or_buf, **kwargs):
        path_or_buf.write("half")
        path_or_buf.flush()
        raise error

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises((DatasetError, KeyboardInterrupt)):
        make(CSVDataset, tmp_path, "2", {}).save(FRAME)
    assert make(CSVDataset, tmp_path, None, {}).resolve_load_version() == "1"
    assert not list((tmp_path / "x.data" / "2").iterdir())


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(self, path_or_buf, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(DatasetError, match=r"^No space left on the disk of [^\n]*$"):
        make(CSVDataset, tmp_path, "1", {}).save(FRAME)


def test_a_run_loads_what_it_saved_whatever_another_has_saved_meanwhile(tmp_path):
    mine, others = (make(JSONDataset, tmp_path, version, {}) for version in ("1", "2"))
    mine.save({"whose": "mine"})
    others.save({"whose": "the other's"})
    mine.release()
    assert mine.load() == {"whose": "mine"}
    assert make(JSONDataset, tmp_path, None, {}).load() == {"whose": "the other's"}
    assert make(JSONDataset, tmp_path, None, {}, load="1").load() == {"whose": "mine"}


@pytest.mark.parametrize("kind", [BaseModelDataset, ClustersDataset, CSVTableDataset, EmbeddingsDataset, TableStreamDataset])
@pytest.mark.parametrize("place", ["s3://bucket/x.data", "file:///x.data", "memory://x.data"])
def test_what_lies_on_local_disks_only_refuses_another_place(tmp_path, monkeypatch, kind, place):
    monkeypatch.chdir(tmp_path)
    more = {"source": "random:tiny-llama"} if kind is BaseModelDataset else {}
    with pytest.raises(DatasetError, match=rf"filepath {place.replace(':///', '://')} is not a local path"):
        kind(filepath=place, version=Version(None, "1"), **more)
    assert not list(tmp_path.iterdir())


def test_a_changed_version_is_refused_unless_its_checksum_is_removed(tmp_path):
    make(JSONDataset, tmp_path, "1", {}).save({"a": 1})
    file = tmp_path / "x.data" / "1" / "x.data"
    file.write_text('{"a": 2}')
    with pytest.raises(DatasetError, match=r"is damaged: it is not what was written; remove .* and run the pipeline that writes it again"):
        make(JSONDataset, tmp_path, None, {}).load()
    file.with_name(".x.data.xxh128").unlink()
    assert make(JSONDataset, tmp_path, None, {}).load() == {"a": 2}
