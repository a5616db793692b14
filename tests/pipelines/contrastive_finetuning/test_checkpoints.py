from __future__ import annotations

import pandas as pd
import pytest

from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import Checkpoints, fingerprint_of

FILES = ("adapter_model.safetensors", "optimizer.safetensors", "random_state.safetensors", "trainer_state.json", "state.json")


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
    assert "step-000008 is torn and not used" in caplog.text


def test_there_is_none_at_first(checkpoints):
    assert checkpoints.all() == []
    assert checkpoints.last() is None


def test_the_fingerprint_follows_options_and_texts():
    one = pd.DataFrame({"source_text": ["a", "b"], "generated_text": ["c", "d"]})
    texts = pd.DataFrame({"text": ["x"]})
    base = fingerprint_of({"steps": 3}, {"train": one, "corpus": texts})
    assert base == fingerprint_of({"steps": 3}, {"train": one.copy(), "corpus": texts})
    others = [
        fingerprint_of({"steps": 4}, {"train": one, "corpus": texts}),
        fingerprint_of({"steps": 3}, {"train": one.iloc[::-1], "corpus": texts}),
        fingerprint_of({"steps": 3}, {"train": one, "corpus": pd.DataFrame({"text": ["y"]})}),
        fingerprint_of({"steps": 3}, {"train": one}),
    ]
    assert len({base, *others}) == 5
