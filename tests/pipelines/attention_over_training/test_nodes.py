from __future__ import annotations

import pandas as pd
import pytest
import torch

from embedding_adaptation.attention.options import AttentionOptions
from embedding_adaptation.checkpoint_folders import CheckpointError
from embedding_adaptation.datasets.checkpoints import CheckpointsDataset
from embedding_adaptation.pipelines.attention_over_training import create_pipeline
from embedding_adaptation.pipelines.attention_over_training.nodes import measure_checkpoints, plot_over_training, relate_attention
from embedding_adaptation.pipelines.attention_over_training.options import OverTrainingOptions

TEXTS = pd.DataFrame({"id": list("abcd"), "text": ["the bus is late", "a house on the street", "who will come", "water for the garden"]})
ATTENTION = AttentionOptions(max_texts=3, seed=0, resamples=20)


@pytest.fixture(scope="module")
def checkpoints(tiny_weights, tmp_path_factory):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("run")
    for step in (2, 4):
        torch.manual_seed(step)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(AutoModel.from_pretrained(tiny_weights.base), config).save_pretrained(folder / f"step-{step:06d}")
    return CheckpointsDataset(filepath=str(folder)).load()


def test_attention_is_followed_from_the_base_model_on_and_related_to_the_history(tiny_weights, checkpoints, embedder_options):
    options = OverTrainingOptions()
    table = measure_checkpoints(tiny_weights, checkpoints, TEXTS, options, ATTENTION, embedder_options())
    assert table["step"].unique().tolist() == [0, 2, 4]
    history = pd.DataFrame({"step": [0, 1, 2, 3, 4], "train_loss": [None, 3, 2, 2, 1], "validation_accuracy": [0.2, None, 0.4, None, 0.5]})
    relation = relate_attention(table, history, options, ATTENTION)
    assert relation["steps"].max() == 3
    assert {"text", "content", "train_loss"} <= set(relation["signal"])
    assert plot_over_training(table, history, options).axes[6].get_title() == "validation accuracy"


def test_steps_can_be_chosen_and_must_be_there(tiny_weights, checkpoints, embedder_options):
    table = measure_checkpoints(tiny_weights, checkpoints, TEXTS, OverTrainingOptions(steps=(0, 4)), ATTENTION, embedder_options())
    assert table["step"].unique().tolist() == [0, 4]
    with pytest.raises(CheckpointError, match=r"unknown step 3 in attention_over_training\.steps; choose from the checkpoints 2, 4"):
        measure_checkpoints(tiny_weights, checkpoints, TEXTS, OverTrainingOptions(steps=(3,)), ATTENTION, embedder_options())


def test_the_pipeline_needs_checkpoints_and_the_history():
    free = {name for name in create_pipeline().inputs() if not name.startswith("params:")}
    assert free == {"base_model", "checkpoints", "attention_texts", "training_history"}
