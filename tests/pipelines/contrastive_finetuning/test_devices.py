from __future__ import annotations

import numpy as np
import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError


def weights_of(adapter):
    return {name: weight.detach() for name, weight in adapter.model.named_parameters() if "lora_" in name}


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(job_of, corpus, tmp_path):
    settings = {"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "corpus": corpus}
    expected, history = train(job_of(**settings))
    adapter, shared = train(job_of(devices=2, checkpoints=tmp_path, **settings))
    one, two = weights_of(expected), weights_of(adapter)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], atol=1e-5, rtol=0)
    np.testing.assert_allclose(shared["train_loss"], history["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(shared["gradient_norm"], history["gradient_norm"], rtol=1e-4)
    assert len(list(tmp_path.glob("*/*/step-000003"))) == 1
    again, whole = train(job_of(devices=2, checkpoints=tmp_path, **settings))
    assert weights_of(again).keys() == two.keys()
    assert whole["seconds"].equals(shared["seconds"])  # nothing was trained again


@pytest.mark.slow
def test_a_process_that_fails_is_an_error(job_of):
    with pytest.raises(TrainingError, match="training on 2 devices failed with exit code"):
        train(job_of(steps=3, batch_size=8, devices=2, learning_rate=1e30))
