from __future__ import annotations

import pytest
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.folder import FolderDataset


def test_loading_gives_a_folder_that_is_there(tmp_path):
    dataset = FolderDataset(filepath=str(tmp_path / "a/b"))
    assert not dataset.exists()
    (dataset.load() / "work").write_text("kept")
    assert dataset.exists()
    assert (dataset.load() / "work").read_text() == "kept"
    assert str(tmp_path) in str(dataset)


def test_it_is_no_output(tmp_path):
    with pytest.raises(DatasetError, match="is a working folder and cannot be saved; nodes write to it directly"):
        FolderDataset(filepath=str(tmp_path)).save("anything")
