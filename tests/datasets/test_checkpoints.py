from __future__ import annotations

import pytest
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.checkpoints import CheckpointsDataset


def write(folder, *steps):
    for step in steps:
        (folder / f"step-{step:06d}").mkdir(parents=True)
        (folder / f"step-{step:06d}" / "adapter_config.json").write_text("{}")


def test_checkpoints_are_loaded_by_step_in_order(tmp_path):
    write(tmp_path / "run", 100, 25)
    dataset = CheckpointsDataset(filepath=str(tmp_path / "run"))
    assert dataset.exists()
    assert {step: path.name for step, path in dataset.load().items()} == {25: "step-000025", 100: "step-000100"}
    assert list(dataset.load()) == [25, 100]


def test_of_several_versions_the_newest_is_taken(tmp_path):
    write(tmp_path / "run" / "2026-01-01" / "run", 1)
    write(tmp_path / "run" / "2026-02-01" / "run", 2)
    assert list(CheckpointsDataset(filepath=str(tmp_path / "run")).load()) == [2]


def test_missing_checkpoints_fail_early_and_nothing_is_written(tmp_path):
    dataset = CheckpointsDataset(filepath=str(tmp_path / "none"))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"contains no checkpoints.*checkpoints=PATH"):
        dataset.check_input()
    with pytest.raises(DatasetError, match="cannot be saved"):
        dataset.save({})
    assert "none" in str(dataset)
