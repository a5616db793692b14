"""Decoders of the families that transformers knows, made tiny on the spot with random weights."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LAYERS, WINDOW = 4, 6
# Under every name that a configuration may have for it; a name that a configuration does not have is left out.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "hidden_dim", "dense_intermediate_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "rotary_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "swa_head_dim", "swa_v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(
        ("n_shared_experts", "num_shared_experts", "n_group", "topk_group", "first_k_dense_replace", "moe_num_shared_experts"), 1
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size", "intermediate_size_mlp"), 16),
    **dict.fromkeys(("sliding_window", "window_size"), WINDOW),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"), 128),
    "attention_chunk_size": 8,
    "block_size": 4,
    "initializer_range": 0.2,
    "vocab_size_per_layer_input": 400,
    "hidden_size_per_layer_input": 8,
    "query_pre_attn_scalar": 8,
}
# Random draws in the middle of a pass, switched off.
QUIET = (
    "attention_dropout", "hidden_dropout", "resid_pdrop", "attn_pdrop", "embd_pdrop", "dropout", "activation_dropout", "layerdrop",
    "resid_dropout", "embed_dropout", "embedding_dropout", "attention_dropout_prob", "hidden_dropout_prob", "input_jitter_noise",
    "router_jitter_noise", "residual_dropout", "attention_probs_dropout_prob", "emb_dropout_prob",
)  # fmt: skip
_FULL_ATTENTION = {"num_key_value_heads": 4}
# What a family needs besides.
CHANGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "axk1",
            "axk2",
            "deepseek_v3",
            "deepseek_v32",
            "dots3_note_text",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "longcat_flash",
            "minicpm3",
            "youtu",
        ),
        _FULL_ATTENTION,
    ),
    "deepseek_v2": _FULL_ATTENTION | {"topk_method": "greedy"},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    # A model with attention in four chunks a text, and a scale of queries that grows with the position.
    "llama4_text": {"no_rope_layers": [1, 1, 0, 1], "floor_scale": 8, "attn_temperature_tuning": True},
    "granitemoehybrid": {"layer_types": ["attention"] * LAYERS, "position_embedding_type": "rope", "mamba_n_heads": 8, "mamba_d_head": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "zaya": {"num_experts_per_tok": 1},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 2},
}
_VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    "head_dim": 16,
}  # fmt: skip
_QWEN_VISION = {"depth": 1, "hidden_size": 32, "embed_dim": 32, "out_hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                "patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}  # fmt: skip
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
# Multimodal models: type of the text part, what it needs besides, the part that sees, what the whole needs besides.
MULTIMODAL: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("gemma3_text", {}, {"model_type": "siglip_vision_model"} | _VISION, {"mm_tokens_per_image": 4}),
    "internvl": ("qwen2", {}, {"model_type": "internvl_vision", "image_size": [28, 28], "patch_size": [14, 14]}, {}),
    "llava": ("llama", {}, {"model_type": "clip_vision_model"} | _VISION, {}),
    "mistral3": ("mistral", {}, {"model_type": "pixtral"} | _VISION, {}),
    "qwen2_vl": ("qwen2_vl_text", _MROPE, _QWEN_VISION, {}),
    "qwen2_5_vl": ("qwen2_5_vl_text", _MROPE, _QWEN_VISION, {}),
    "qwen3_vl": ("qwen3_vl_text", _MROPE, _QWEN_VISION, {}),
    "smolvlm": ("llama", {}, {"model_type": "smolvlm_vision"} | _VISION, {}),
}


def tiny_config(name: str, vocabulary: int, **changes: Any) -> PreTrainedConfig:
    """A configuration of a family with everything small."""
    from transformers import CONFIG_MAPPING

    if name in MULTIMODAL:
        text_type, text_changes, vision, whole = MULTIMODAL[name]
        text = tiny_config(text_type, vocabulary, **text_changes).to_dict()
        tokens = dict.fromkeys(
            ("image_token_id", "image_token_index", "video_token_id", "vision_start_token_id", "vision_end_token_id", "boi_token_index",
             "eoi_token_index", "audio_token_id"), vocabulary - 1,
        )  # fmt: skip
        kind = CONFIG_MAPPING[name]
        taken = {key: value for key, value in tokens.items() if key in vars(kind())}
        return kind(text_config=text, vision_config=_small(vision), pad_token_id=1, **taken, **whole, **changes)
    kind = CONFIG_MAPPING[name]
    names = {*vars(kind()), *inspect.signature(kind.__init__).parameters, *getattr(kind, "attribute_map", {})}
    values = {key: value for key, value in SMALL.items() if key in names} | {key: 0.0 for key in QUIET if key in names}
    values |= {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return kind(**values | CHANGES.get(name, {}) | changes)


def _small(vision: dict[str, Any]) -> dict[str, Any]:
    return {**_VISION, **vision} if "model_type" in vision else vision


def write_family(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> PreTrainedModel:
    """Write a tiny model of a family with random weights, as save_pretrained does, and return the decoder whose vectors are right."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    from embedding_adaptation.embedder.loading import inner_decoder

    config = tiny_config(name, len(tokenizer), **changes)
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if name in MULTIMODAL else MODEL_FOR_CAUSAL_LM_MAPPING
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mapping[type(config)](config).eval()
        # Random norms and biases too: a family that handles them in its own way would not be seen with ones and zeros.
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 1:
                    weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.get_decoder() if name in MULTIMODAL else inner_decoder(model)
