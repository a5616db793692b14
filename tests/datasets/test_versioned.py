from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pandas as pd
import pytest
from kedro.io import Version
from kedro.io.core import DatasetError

from embedding_adaptation import datasets
from embedding_adaptation.atomic import replacing_file, replacing_folder
from embedding_adaptation.checksums import is_intact
from embedding_adaptation.datasets.adapter import AdapterDataset, OptionalAdapterDataset
from embedding_adaptation.datasets.base_model import BaseModelDataset
from embedding_adaptation.datasets.clusters import ClustersDataset
from embedding_adaptation.datasets.csv_table import CSVTableDataset
from embedding_adaptation.datasets.directory import DirectoryDataset
from embedding_adaptation.datasets.embeddings import EmbeddingsDataset
from embedding_adaptation.datasets.pandas_files import CSVDataset, ParquetDataset
from embedding_adaptation.datasets.reports import JSONDataset
from embedding_adaptation.datasets.tables import TableStreamDataset
from embedding_adaptation.datasets.text_files import TextDataset
from embedding_adaptation.datasets.versioned import LocalVersions, OneFile, VersionRules

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


def every_kind(kind=VersionRules):
    """All classes with these rules that are in the project's own modules."""
    found = {kind} if kind.__module__.startswith("embedding_adaptation.") else set()
    return found.union(*(every_kind(sub) for sub in kind.__subclasses__()))


def writers():
    """Those of them that write, each in a way of its own."""
    for module in pkgutil.iter_modules(datasets.__path__, "embedding_adaptation.datasets."):
        importlib.import_module(module.name)
    abstract = {VersionRules, LocalVersions, OneFile, DirectoryDataset}
    read_only = {BaseModelDataset, OptionalAdapterDataset}
    return sorted((kind for kind in every_kind() - abstract - read_only if "[" not in kind.__name__), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", writers())
def test_every_dataset_with_versions_saves_a_kept_version_as_it_is(tmp_path, kind):
    def make_kind(load=None, save=None):
        return kind(filepath="/".join((str(tmp_path), "x.data")), version=Version(load, save), **more)

    more = {"base_model": "base_model"} if kind is AdapterDataset else {}
    is_folder = issubclass(kind, DirectoryDataset)
    first = tmp_path / "x.data" / "1" / "x.data"
    with (replacing_folder if is_folder else replacing_file)(first, checksum=True) as work:
        for path, content in (("a/b", b"\0one"), ("c", b"two")) if is_folder else (("", b"\0three"),):
            (work / path).parent.mkdir(exist_ok=True)
            (work / path).write_bytes(content)
    dataset = make_kind(save="2")
    kept = dataset.kept_version("1")
    assert dataset.content_identity() == make_kind(load="1").content_identity()
    assert not dataset.has_saved
    dataset.save(kept)
    assert dataset.has_saved
    assert dataset.resolve_load_version() == "2"
    second = tmp_path / "x.data" / "2" / "x.data"
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()] if is_folder else [Path()]
    assert len(files) == (2 if is_folder else 1)
    for path in files:
        assert (second / path).read_bytes() == (first / path).read_bytes()
        assert not (second / path).samefile(first / path)
    assert is_intact(second)
    assert dataset.content_identity() == make_kind(load="1").content_identity()
    with pytest.raises(DatasetError, match="must not exist"):
        make_kind(save="2").save(kept)
    damaged = second / "c" if is_folder else second
    damaged.write_bytes(damaged.read_bytes() + b"!")
    assert make_kind().kept_version("2") is None
    assert make_kind().kept_version("3") is None
    with pytest.raises(DatasetError, match="damaged"):
        make_kind().content_identity()


def test_the_identity_of_a_content_is_that_of_its_bytes(tmp_path):
    empty = make(JSONDataset, tmp_path, "0", {})
    assert empty.content_identity() == ""
    found = []
    for version, content in (("1", 1), ("2", 1), ("3", 2)):
        dataset = make(JSONDataset, tmp_path, version, {})
        dataset.save({"a": content})
        found.append(dataset.content_identity())
    assert found[0] == found[1] != found[2]
    (tmp_path / "x.data" / "2" / ".x.data.xxh128").unlink()
    assert make(JSONDataset, tmp_path, None, {}, load="2").content_identity() == found[0]
    assert make(JSONDataset, tmp_path, None, {}, load="2").kept_version("2") is None
    unversioned = JSONDataset(filepath=str(tmp_path / "plain.json"))
    unversioned.save({"a": 1})
    assert not unversioned.has_local_versions
    assert unversioned.kept_version("1") is None
    first = unversioned.content_identity()
    unversioned.save({"a": 2})
    assert unversioned.content_identity() != first
    assert JSONDataset(filepath="memory://x.json", version=Version(None, "1")).content_identity() is None


def test_a_changed_version_is_refused_unless_its_checksum_is_removed(tmp_path):
    make(JSONDataset, tmp_path, "1", {}).save({"a": 1})
    file = tmp_path / "x.data" / "1" / "x.data"
    file.write_text('{"a": 2}')
    with pytest.raises(DatasetError, match=r"is damaged: it is not what was written; remove .* and run the pipeline that writes it again"):
        make(JSONDataset, tmp_path, None, {}).load()
    file.with_name(".x.data.xxh128").unlink()
    assert make(JSONDataset, tmp_path, None, {}).load() == {"a": 2}
