from __future__ import annotations

import math

import pandas as pd
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import TrainingState, load_optimizer, read_training, write_training
from embedding_adaptation.pipelines.contrastive_finetuning.lora import add_adapter
from embedding_adaptation.pipelines.contrastive_finetuning.options import LoraOptions


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
