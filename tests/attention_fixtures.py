"""Recordings of the tiny model, and tiny adapters of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from embedding_adaptation.embedder.embedder import Embedder

TEXTS = [
    "the bus number 12 is late again, please help",
    "a house on the street and a garden behind it",
    "who will take the letter to the council?",
    "don't take water from the school library!",
    "bus",
]


FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"sliding_window": 6}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "scale_attn_by_inverse_layer_idx": True}),
}


def family(name: str, tokenizer) -> Embedder:
    """A tiny random model of a family, as an embedder."""
    import transformers

    from embedding_adaptation.embedder.embedder import Embedder

    kind, changes = FAMILIES[name]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = getattr(transformers, kind)(vocab_size=400, **({} if name == "gpt2" else shape), **changes)
    torch.manual_seed(0)
    return Embedder(transformers.AutoModel.from_config(config).eval(), tokenizer, max_length=64)


def eager_rows(embedder, template, text):
    """The obvious version: all maps of one unpadded text, ``[L, H, T]``."""
    (prompt,) = template.tokenize([text], embedder.tokenizer, embedder.max_length)
    before = embedder.backbone.config._attn_implementation
    embedder.backbone.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = embedder.backbone(input_ids=torch.tensor([prompt.ids]), output_attentions=True).attentions
    embedder.backbone.set_attn_implementation(before)
    return torch.stack([layer[0, :, -1] for layer in maps]).numpy()


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
