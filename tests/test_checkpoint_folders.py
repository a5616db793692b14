from __future__ import annotations

import pytest

from embedding_adaptation.checkpoint_folders import CheckpointError, Checkpoints, checkpoint_folders

FILES = ("adapter_model.safetensors", "optimizer.safetensors", "state.json")


def write(folder):
    for name in FILES:
        (folder / name).write_text(f"{name} of {folder.name[:0]}")


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path, "abc")


def test_only_the_last_can_be_gone_on_from_and_all_keep_their_adapters(checkpoints):
    for step in (4, 8):
        checkpoints.save(step, write)
    found = checkpoints.all()
    assert [(checkpoint.step, checkpoint.resumable) for checkpoint in found] == [(4, False), (8, True)]
    assert all((checkpoint.folder / "adapter_model.safetensors").exists() for checkpoint in found)
    assert checkpoints.last() == found[1]


def test_a_write_that_fails_leaves_what_was_there(checkpoints):
    checkpoints.save(4, write)

    def fail(folder):
        write(folder)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save(8, fail)
    assert [checkpoint.step for checkpoint in checkpoints.all()] == [4]
    assert checkpoints.last().step == 4


@pytest.mark.parametrize("harm", ["cut", "gone", "no manifest", "bad manifest"])
def test_torn_checkpoints_are_not_used(checkpoints, caplog, harm):
    checkpoints.save(4, write)
    folder = checkpoints.save(8, write)
    weights, manifest = folder / "adapter_model.safetensors", folder / "manifest.json"
    {"cut": lambda: weights.write_text("ad"), "gone": weights.unlink, "no manifest": manifest.unlink,
     "bad manifest": lambda: manifest.write_text("[")}[harm]()  # fmt: skip
    assert [checkpoint.step for checkpoint in checkpoints.all()] == [4]
    assert "step-000008 is incomplete and is not used" in caplog.text


def test_there_is_none_at_first(checkpoints):
    assert checkpoints.all() == []
    assert checkpoints.last() is None


def test_those_of_an_earlier_format_are_named_and_not_gone_on_from(checkpoints, tmp_path, caplog):
    (tmp_path / "0123456789abcdef" / "step-000004").mkdir(parents=True)
    assert checkpoints.last() is None
    assert caplog.messages == [
        f"{tmp_path} contains data in a format other than 2, the one this version writes; they are not used and can be deleted: what is "
        "needed of them is computed again"
    ]
    checkpoints.save(4, write)
    caplog.clear()
    assert checkpoints.last().step == 4
    assert not caplog.messages


def test_checkpoints_are_found_by_their_folders_names(tmp_path):
    with pytest.raises(CheckpointError, match="contains no checkpoints"):
        checkpoint_folders(tmp_path)
    for step in (50, 10, 25):
        folder = tmp_path / f"step-{step:06d}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
    for other in ("step-000099", "notes"):
        (tmp_path / other).mkdir()
    assert list(checkpoint_folders(tmp_path)) == [10, 25, 50]
