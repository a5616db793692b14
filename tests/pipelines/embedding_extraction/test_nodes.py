from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import torch
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from embedding_adaptation.pipelines.embedding_extraction import create_pipeline
from embedding_adaptation.pipelines.embedding_extraction.nodes import extract_embeddings

TEXTS = pd.DataFrame({"id": ["7", "8", "9"], "text": ["the bus is late", "water", "a house"]})


def adapted(tiny_weights, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(0)
    model = get_peft_model(AutoModel.from_pretrained(tiny_weights.base), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    return dataclasses.replace(tiny_weights, adapter=tmp_path / "adapter")


def test_weights_decide_which_strategies_are_extracted(tiny_weights, embedder_options, tmp_path):
    base = extract_embeddings(tiny_weights, TEXTS, embedder_options())
    assert set(base.vectors) == {"bare_mean", "prompted_last"}
    assert base.ids == ("7", "8", "9")
    tuned = extract_embeddings(adapted(tiny_weights, tmp_path), TEXTS, embedder_options())
    assert set(tuned.vectors) == {"prompted_last_adapted"}
    assert np.abs(tuned.vectors["prompted_last_adapted"] - base.vectors["prompted_last"]).max() > 1e-3


def test_both_namespaces_are_one_pipeline(tiny_weights, embedder_options, tmp_path):
    pipeline = create_pipeline()
    assert len({node.func for node in pipeline.nodes}) == 1
    catalog = DataCatalog(
        {
            "base_model": MemoryDataset(tiny_weights),
            "adapter": MemoryDataset(adapted(tiny_weights, tmp_path)),
            "labelled_texts": MemoryDataset(TEXTS),
            "params:embedder": MemoryDataset(embedder_options()),
        }
    )
    outputs = SequentialRunner().run(pipeline, catalog)
    assert set(outputs) == {"base_embeddings", "adapted_embeddings"}
