"""Recordings of the tiny model, and tiny adapters of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

TEXTS = [
    "the bus number 12 is late again, please help",
    "a house on the street and a garden behind it",
    "who will take the letter to the council?",
    "don't take water from the school library!",
    "bus",
]


def write_adapter(weights, folder: Path, seed: int) -> Path:
    """A random adapter as a PEFT folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(seed)
    model = get_peft_model(AutoModel.from_pretrained(weights.base), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tiny_weights, tmp_path_factory):
    """A directory as training writes it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, step in enumerate((10, 25, 50)):
        write_adapter(tiny_weights, folder / f"step-{step:06d}", seed)
    (folder / "step-000099").mkdir()
    (folder / "notes").mkdir()
    return folder


@pytest.fixture(scope="session")
def recorded(tiny_weights, checkpoints, tmp_path_factory):
    """Recordings of the base model and of one adapter, with one example before the texts."""
    from dataclasses import replace

    from embedding_adaptation.attention.recording import record_attention
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.template import PromptTemplate

    template = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
    folder = tmp_path_factory.mktemp("recorded")
    rows = {}
    for name, weights in (("base", tiny_weights), ("adapted", replace(tiny_weights, adapter=checkpoints / "step-000025"))):
        embedder = Embedder.load(weights, device="cpu", dtype="float32", max_length=64)
        ids = [f"t{number}" for number in range(len(TEXTS))]
        rows[name] = record_attention(embedder, template, TEXTS, folder / name, ids=ids, examples=["the late bus"], progress=False)
    return rows
