"""Which model types of transformers are supported, judged by their configuration alone: all others are refused by name.

The table in docs/explanation/models.md is checked against a survey (tests/survey) that runs a tiny model of every family through the whole
chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedding_adaptation.embedder.checkpoint import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

STATE_SPACE = frozenset(
    {
        "bamba", "falcon_h1", "falcon_mamba", "jamba", "mamba", "mamba2", "nemotron_h", "recurrent_gemma", "rwkv", "xlstm", "zamba",
        "zamba2",
    }
)  # fmt: skip
# Parts of encoder-decoder models, which transformers also lists as decoders in their own right.
HALVES = frozenset(
    {
        "bart", "bert-generation", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "moshi", "musicgen",
        "musicgen_melody", "mvp", "pegasus", "plbart", "prophetnet", "trocr", "whisper",
    }
)  # fmt: skip
# Decoders that do more than attend to earlier tokens, with the reason for refusing them.
OTHERS: dict[str, str] = {
    "blt": "reads bytes in patches that a second model chooses, not tokens",
    "deepseek_v4": "cannot be loaded by transformers without its vocabulary head",
    "git": "describes images",
    "hrm_text": "runs through its layers several times",
    "cpmant": "puts tokens of its own before every text",
    "gemma3n": "has several hidden states per token",
    "gemma3n_text": "has several hidden states per token",
    "dots3_note": "has layers with different numbers of heads",
    "dots3_note_text": "has layers with different numbers of heads",
    "longcat_flash": "has two attentions per layer",
    "paligemma": "attends in both directions within a text",
    "hy_v4": "has several hidden states per token",
}
# Text decoders of multimodal models for which transformers has no language model, and the one that computes the same on text alone, where
# the three positions of a multimodal rotary embedding are equal.
EQUIVALENTS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
_ADVICE = "give a decoder-only language model, such as Llama, Qwen, Mistral or SmolLM"


def check_family(config: dict[str, Any]) -> None:
    """Check from the contents of config.json that a model is a supported decoder.

    Raises:
        BaseModelError: If it is not.
    """
    from transformers.models.auto import modeling_auto

    model_type = str(config.get("model_type", "none"))
    parts = [str(value["model_type"]) for value in config.values() if isinstance(value, dict) and value.get("model_type")]
    if any(
        part.get("use_bidirectional_attention") in {True, "all"} for part in (config, *(p for p in config.values() if isinstance(p, dict)))
    ):
        _refuse(f"{model_type!r} with use_bidirectional_attention attends in both directions within a text")
    for name in (model_type, *parts):
        if name in STATE_SPACE or _has_state_space_layers(config):
            _refuse(f"{name!r} is a state-space model, or has state-space layers, whose states would mix in packed and padded rows")
        if name in OTHERS:
            _refuse(f"{name!r} {OTHERS[name]}")
    if config.get("is_encoder_decoder") or model_type in HALVES:
        _refuse(f"{model_type!r} is an encoder-decoder model")
    if model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        # The BERT family is also listed as decoders, for use inside encoder-decoder models.
        _refuse(f"{model_type!r} is an encoder-only model")
    if model_type not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not _is_multimodal(model_type, config):
        remote = " (it brings its own code, which is not run)" if "auto_map" in config else ""
        _refuse(f"transformers knows no decoder of type {model_type!r}{remote}")


def text_configuration(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of a model's text decoder: the model's own, or that of a multimodal model's language part.

    Raises:
        BaseModelError: If transformers has no language model for it.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config(decoder=True)
    if text is config:
        return config
    text = _equivalent(text)
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        _refuse(
            f"{config.model_type!r} is a multimodal model, and transformers has no language model for its text part {text.model_type!r}"
        )
    return text


def _equivalent(text: PreTrainedConfig) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING

    name = EQUIVALENTS.get(text.model_type)
    if name is None:
        return text
    values = {key: value for key, value in text.to_dict().items() if key not in {"model_type", "architectures", "transformers_version"}}
    rope = values.get("rope_parameters")
    if isinstance(rope, dict):
        rope = {key: value for key, value in rope.items() if not key.startswith("mrope")}
        values["rope_parameters"] = rope | {
            "rope_type": "default" if rope.get("rope_type") == "mrope" else rope.get("rope_type", "default")
        }
    return CONFIG_MAPPING[name](**values)


def _has_state_space_layers(config: dict[str, Any]) -> bool:
    kinds = config.get("layer_types") or config.get("layers_block_type") or ()
    if config.get("model_type") == "granitemoehybrid" and not kinds:  # by default, all layers are
        return True
    return any("mamba" in str(kind) or "recurrent" in str(kind) for kind in kinds)


def _is_multimodal(model_type: str, config: dict[str, Any]) -> bool:
    from transformers.models.auto import modeling_auto

    if model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return True
    return model_type in modeling_auto.MODEL_MAPPING_NAMES and isinstance(config.get("text_config"), dict)


def _refuse(reason: str) -> None:
    msg = f"{reason}; {_ADVICE}"
    raise BaseModelError(msg)
