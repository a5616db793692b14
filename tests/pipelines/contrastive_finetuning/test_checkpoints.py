from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import (
    Checkpoints,
    TrainingState,
    load_optimizer,
    read_training,
    write_training,
)
from embedding_adaptation.pipelines.contrastive_finetuning.lora import add_adapter
from embedding_adaptation.pipelines.contrastive_finetuning.options import LoraOptions

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
    assert "step-000008 is torn and not used" in caplog.text


def test_there_is_none_at_first(checkpoints):
    assert checkpoints.all() == []
    assert checkpoints.last() is None


def test_those_of_an_earlier_format_are_named_and_not_gone_on_from(checkpoints, tmp_path, caplog):
    (tmp_path / "0123456789abcdef" / "step-000004").mkdir(parents=True)
    assert checkpoints.last() is None
    assert caplog.messages == [
        f"{tmp_path} holds what was kept in another format than 2, which this version writes: it is not used and can be deleted; what is "
        "needed of it is made again"
    ]
    checkpoints.save(4, write)
    caplog.clear()
    assert checkpoints.last().step == 4
    assert not caplog.messages


def test_training_is_read_as_it_was_written(tiny_embedder, tmp_path):
    add_adapter(tiny_embedder, LoraOptions(layers=[2]))
    weights = [weight for weight in tiny_embedder.backbone.parameters() if weight.requires_grad]
    optimizer, other = (torch.optim.AdamW(weights, lr=0.1) for _ in range(2))
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    pairs = pd.DataFrame({"source_text": ["a"], "generated_text": ["b"], "negative_text": ["c"]})
    rows = [{"step": 0, "validation_loss": 1 / 3}, {"step": 1, "train_loss": 0.1, "text_attention": math.nan}]
    write_training(tmp_path, tiny_embedder.backbone, optimizer, TrainingState(rows, 1.5, 0, pairs))
    read = read_training(tmp_path)
    assert (read.step, read.seconds, read.first_step, read.rows[0]) == (1, 1.5, 0, rows[0])
    assert math.isnan(read.rows[1]["text_attention"])
    pd.testing.assert_frame_equal(read.pairs, pairs)
    load_optimizer(tmp_path, other)
    moments, loaded = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert moments.keys() == loaded.keys()
    for number, values in moments.items():
        assert all(torch.equal(value, loaded[number][name]) for name, value in values.items())
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".parquet"}
