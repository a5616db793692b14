from __future__ import annotations

import pytest
from kedro.io import Version
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.directory import DirectoryDataset


class NoteDataset(DirectoryDataset[str, str]):
    def read_directory(self, directory):
        return (directory / "note.txt").read_text()

    def write_directory(self, data, directory):
        (directory / "note.txt").write_text(data)
        if data == "broken":
            raise OSError(28, "No space left on device")


def test_versions_are_kept_apart_and_the_newest_is_loaded(tmp_path):
    for number in ("1", "2"):
        NoteDataset(filepath=str(tmp_path / "note"), version=Version(None, number)).save(f"note {number}")
    assert NoteDataset(filepath=str(tmp_path / "note"), version=Version(None, None)).load() == "note 2"
    assert NoteDataset(filepath=str(tmp_path / "note"), version=Version("1", None)).load() == "note 1"


def test_without_versions_a_save_replaces_what_is_there(tmp_path):
    dataset = NoteDataset(filepath=str(tmp_path / "note"))
    dataset.save("one")
    dataset.save("two")
    assert dataset.load() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".note.xxh128", "note"]


def test_a_failed_save_leaves_the_last_value_and_no_rest(tmp_path):
    dataset = NoteDataset(filepath=str(tmp_path / "note"))
    dataset.save("one")
    with pytest.raises(DatasetError, match="No space left"):
        dataset.save("broken")
    assert dataset.load() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".note.xxh128", "note"]


def test_a_failed_versioned_save_is_not_the_newest_version(tmp_path):
    NoteDataset(filepath=str(tmp_path / "note"), version=Version(None, "1")).save("one")
    with pytest.raises(DatasetError):
        NoteDataset(filepath=str(tmp_path / "note"), version=Version(None, "2")).save("broken")
    assert NoteDataset(filepath=str(tmp_path / "note"), version=Version(None, None)).load() == "one"


def test_what_is_not_there_says_what_to_do(tmp_path):
    dataset = NoteDataset(filepath=str(tmp_path / "note"))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match="run the pipeline that writes it first"):
        dataset.load()
