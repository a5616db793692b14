"""Configuration files of an exported model that old and new versions of their readers interpret in the same way.

transformers 5 writes names that transformers 4 silently ignores: without ``rope_theta``, it uses its own default, and every vector differs.
sentence-transformers 6 writes module paths and pooling keys that sentence-transformers 4 and 5, text-embeddings-inference and vLLM do not
know. The files written here contain the names of both, and :func:`write_config` makes sure that nothing changes for the installed version.

A model type whose settings have not been compared across versions is written with a tokenizer class that transformers 4 lacks, so that old
versions reject it.

References:
    https://huggingface.co/docs/transformers/main_classes/configuration
    https://github.com/huggingface/text-embeddings-inference/blob/main/router/src/lib.rs (``PoolConfig``, ``STConfig``, ``ModelConfig``)
    https://github.com/vllm-project/vllm/blob/main/vllm/transformers_utils/config.py (``get_pooling_config``)
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedConfig

    from embedding_adaptation.embedder.after_processing import AfterProcessing

# Model types whose tiny models give the same vectors in all versions of tests/clean_environments.py, or are rejected there by name.
COMPARED_TYPES = frozenset({
    "bloom", "cohere", "cohere2", "exaone4", "falcon", "gemma", "gemma3_text", "glm", "glm4", "gpt2", "gpt_neo", "gpt_neox",
    "gptj", "granite", "llama", "mistral", "nemotron", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3",
    "stablelm", "starcoder2",
})  # fmt: skip
# Those with layers limited to a window: old versions identify them by layer_types, as new ones do, or by a period.
_BY_LAYER_TYPES, _BY_PERIOD = {"exaone4", "olmo3", "smollm3"}, {"cohere2", "gemma3_text"}
# Types of scaled rotary embedding whose fields are the same in both, unlike those of longrope.
_ROPE_TYPES = {"default", "linear", "dynamic", "yarn", "llama3"}
# The class that both know, which is fully defined by tokenizer.json; and one that only transformers 5 has.
PLAIN_TOKENIZER, NEW_TOKENIZER = "PreTrainedTokenizerFast", "TokenizersBackend"
# The release that introduced this form of the modules; readers warn if it is newer than themselves.
_FORMAT_VERSION = "4.1.0"
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def with_older_names(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Add the names of transformers 4 to a configuration of transformers 5.

    Args:
        config: The ``config.json`` of transformers 5.

    Returns:
        The configuration, or ``None`` if transformers 4 cannot express it.
    """
    kind = config.get("model_type")
    if kind not in COMPARED_TYPES:
        return None
    values = dict(config)
    if values.get("dtype") is not None:
        values["torch_dtype"] = values["dtype"]
    layers = list(values.get("layer_types") or ())
    if "sliding_attention" in layers and kind not in _BY_LAYER_TYPES:
        period = _window_period(layers)
        if kind not in _BY_PERIOD or period is None:
            return None
        values["sliding_window_pattern"] = period
    rope = values.get("rope_parameters")
    if not isinstance(rope, dict):
        return values
    if "full_attention" in rope:
        # Gemma 3: layers with a window have one frequency, those without have another, which may be scaled.
        local, rope = rope.get("sliding_attention") or {}, rope["full_attention"]
        values["rope_local_base_freq"] = local.get("rope_theta")
    scaling = {name: value for name, value in rope.items() if name not in {"rope_theta", "partial_rotary_factor"}}
    rope_type = scaling.get("rope_type", "default")
    if rope_type not in _ROPE_TYPES:
        return None
    values["rope_scaling"] = None if rope_type == "default" else scaling
    theta, part = ("rotary_emb_base", "rotary_pct") if kind == "gpt_neox" else ("rope_theta", "partial_rotary_factor")
    older = {theta: rope.get("rope_theta"), part: rope.get("partial_rotary_factor")}
    return values | {name: value for name, value in older.items() if value is not None}


def _window_period(layers: list[str]) -> int | None:
    """The period at which layers without a window recur, counted from the first layer; ``None`` if they are irregular."""
    if "full_attention" not in layers:
        return len(layers) + 1
    period = layers.index("full_attention") + 1
    regular = ["full_attention" if (index + 1) % period == 0 else "sliding_attention" for index in range(len(layers))]
    return period if regular == layers else None


def is_read_alike(config: PreTrainedConfig) -> bool:
    """Whether transformers 4 reads a model's configuration as transformers 5 does, once the older names have been added."""
    return _with_names_of_both(config.to_dict(), type(config)) is not None


def write_config(folder: Path, padding_id: int | None) -> bool:
    """Add the older names to a folder's ``config.json``.

    Args:
        folder: The folder written by ``save_pretrained``.
        padding_id: The padding token, which text-embeddings-inference requires.

    Returns:
        Whether transformers 4 reads it as transformers 5 does. If not, the older names are not added.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("pad_token_id") is None:
        config["pad_token_id"] = padding_id
    # The name of the original model, copied from GGUF files by transformers; meaningless in the export.
    config.pop("_model_name_or_path", None)
    if config.get("attn_logit_softcapping") is not None:
        # Gemma 2: releases of transformers 5 before 5.23 would choose a faster attention that ignores the capping.
        config["attn_implementation"] = "eager"
    _write(file, config)
    read = AutoConfig.from_pretrained(folder)
    # Values equal to this version's defaults may have been omitted, but old versions have other defaults.
    config |= {name: value for name in ("rope_parameters", "layer_types") if (value := getattr(read, name, None)) is not None}
    both = _with_names_of_both(config, type(read))
    _write(file, config if both is None else both)
    return both is not None


def _with_names_of_both(config: Mapping[str, Any], kind: type[PreTrainedConfig]) -> dict[str, Any] | None:
    """The configuration with the older names, if they exist and do not change how the installed version reads it."""
    both = with_older_names(config)
    if both is None:
        return None
    before, after = (kind.from_dict(copy.deepcopy(dict(values))).to_dict() for values in (config, both))
    # transformers keeps unknown names; only those it knows must be unchanged.
    return both if {name: after.get(name) for name in before} == before else None


def write_tokenizer_config(folder: Path, *, readable: bool) -> None:
    """Set the tokenizer class to one that all versions know, or to one that old versions reject.

    Args:
        folder: The folder written by ``save_pretrained``.
        readable: Whether old versions read the model as new ones do.
    """
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["tokenizer_class"] = PLAIN_TOKENIZER if readable else NEW_TOKENIZER
    # Otherwise transformers 4 removes spaces before punctuation when decoding, and warns about it at every start.
    config["clean_up_tokenization_spaces"] = False
    _write(file, config)


def write_modules(
    folder: Path, pooling: tuple[str, ...], width: int, max_length: int, *, normalise: bool, after: AfterProcessing | None = None
) -> None:
    """Write the files that sentence-transformers reads in addition to the decoder.

    Args:
        folder: The exported folder.
        pooling: sentence-transformers' names of poolings, concatenated in this order.
        width: Width of the token vectors.
        max_length: Maximum sequence length in tokens.
        normalise: Whether vectors are scaled to unit length.
        after: After-processing of a single part: an affine map, which becomes a dense layer.
    """
    # Without this, the length would be capped at the model's max_position_embeddings.
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    kinds = ["Transformer", "Pooling"]
    (folder / "1_Pooling").mkdir()
    # Nothing else in this file may be true, because readers look for the first key that is.
    keys = {key: name in pooling for name, key in _POOLING_KEYS.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **keys})
    in_order = tuple(name for name in _POOLING_KEYS if name in pooling)
    if in_order != pooling:
        kinds.append("Dense")
        _write_order(folder / "2_Dense", [in_order.index(name) for name in pooling], width)
    if normalise:
        kinds.append("Normalize")
    if after is not None:
        kinds.append("Dense")
        _write_affine(folder / f"{len(kinds) - 1}_Dense", after)
        kinds += ["Normalize"] if normalise else []
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds[1:], start=1))]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    _write(folder / "modules.json", modules)
    about = {
        "__version__": {"sentence_transformers": _FORMAT_VERSION},
        "model_type": "SentenceTransformer",
        "default_prompt_name": None,
        "prompts": {"query": "", "document": ""},
        "similarity_fn_name": "cosine",
    }
    _write(folder / "config_sentence_transformers.json", about)


def _write_affine(folder: Path, after: AfterProcessing) -> None:
    """Write ``(x - mean) @ matrix`` as a dense layer, whose bias is ``-mean @ matrix``."""
    folder.mkdir()
    width = len(after.mean)
    matrix = np.eye(width)[:, : after.dimensions] if after.matrix is None else after.matrix.astype(np.float64)  # [D, D']
    bias = -after.mean.astype(np.float64) @ matrix  # [D']
    weights = {
        "linear.weight": torch.from_numpy(matrix.T.astype(np.float32).copy()),
        "linear.bias": torch.from_numpy(bias.astype(np.float32)),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "in_features": width,
        "out_features": matrix.shape[1],
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write(folder / "config.json", config)


def _write_order(folder: Path, order: list[int], width: int) -> None:
    """Reorder the concatenated vectors, because sentence-transformers uses an order of its own."""
    folder.mkdir()
    total = len(order) * width
    columns = torch.cat([torch.arange(place * width, (place + 1) * width) for place in order])  # [total]
    weight = torch.zeros(total, total)
    weight[torch.arange(total), columns] = 1.0
    save_file({"linear.weight": weight}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"in_features": total, "out_features": total, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    _write(folder / "config.json", config)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
