"""Checks that packed rows see what the model's own masks allow, at the lengths at which the masks may change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.masking_utils import sdpa_mask

from embedding_adaptation.embedder.attention_swap import (
    AttentionCall,
    AttentionPass,
    UnsupportedDecoderError,
    replaced_attention,
    visible,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig, PreTrainedModel

# Parts of names of configuration fields that give a length at which attention or positions change.
_LIMITS = (
    "window",
    "chunk",
    "floor_scale",
    "original_max_position",
    "index_topk",
    "block_size",
    "block_len",
    "compress",
    "local_attention",
)
# Rotary embeddings that depend on the longest sequence in a batch: a text's vector would depend on the other texts.
_CHANGING_ROPE = frozenset({"dynamic", "longrope"})
_BEYOND = 16


def limits_within(config: PreTrainedConfig, longest: int) -> list[int]:
    """The lengths below ``longest`` at which a model may change how it computes, according to its configuration."""
    return sorted({value for value in _limits(config.to_dict()) if 1 < value < longest})


class _MaskProbe(AttentionPass):
    """Records each layer's own mask and window, and computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[tuple[torch.Tensor | None, int | None]] = []

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Return zeros in place of attention."""
        self.masks.append((call.mask, call.window))
        batch, heads, tokens, _ = call.query.shape
        return call.query.new_zeros(batch, tokens, heads, call.value.shape[3])

    def model_mask(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The model's own mask, even where it could be omitted."""
        mask: torch.Tensor = sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
        return mask


def check_masks(decoder: PreTrainedModel, longest: int) -> None:
    """Check that in every layer a text sees what packed rows let it see: all preceding tokens within the layer's window.

    Args:
        decoder: A decoder without vocabulary head.
        longest: The longest sequence that will be computed.

    Raises:
        UnsupportedDecoderError: If a layer has a different mask, or the model's positions depend on the length.
    """
    config, name = decoder.config, type(decoder).__name__
    _check_rope(config, longest)
    limits = limits_within(config, longest)
    width = min(longest, (limits[-1] if limits else 0) + _BEYOND)
    ids = torch.arange(width, device=decoder.device)[None] % decoder.get_input_embeddings().weight.shape[0]  # [1, T]
    probe = _MaskProbe()
    layers = range(config.num_hidden_layers)
    with torch.inference_mode(), replaced_attention(decoder), probe.running(decoder, layers, (1, width)):
        decoder(input_ids=ids, use_cache=False)
    positions = torch.arange(width)  # [T]
    compared: set[tuple[int, int | None]] = set()
    for layer, (mask, window) in enumerate(probe.masks, start=1):
        if (id(mask), window) in compared:  # layers share their masks
            continue
        compared.add((id(mask), window))
        expected = visible(positions, positions, window)  # [T, T]
        own = visible(positions, positions, None) if mask is None else _allowed(mask)
        if own is None or own.shape[-2:] != expected.shape or not bool((own == expected).all()):
            msg = f"layer {layer} of {name} has a different mask from that of packed rows within {width} tokens"
            raise UnsupportedDecoderError(msg)


def _allowed(mask: torch.Tensor) -> torch.Tensor | None:
    """What a mask allows, or ``None`` if it also adds other values, such as a position bias."""
    mask = mask.cpu()
    if mask.dtype == torch.bool:
        return mask
    allowed = mask == 0
    return allowed if bool((allowed | (mask < torch.finfo(mask.dtype).min / 2)).all()) else None


def _check_rope(config: PreTrainedConfig, longest: int) -> None:
    parameters = getattr(config, "rope_parameters", None) or {}
    every = [parameters, *(part for part in parameters.values() if isinstance(part, dict))]
    for rope in every:
        if rope.get("rope_type") in _CHANGING_ROPE:
            known = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
            limit = int(known or getattr(config, "max_position_embeddings", None) or 0)
            if limit < longest:
                msg = f"its rotary embedding ({rope['rope_type']}) changes for texts longer than {limit} tokens"
                raise UnsupportedDecoderError(msg)


def _limits(values: Any, name: str = "") -> Iterator[int]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _limits(value, str(key))
    elif isinstance(values, list):
        for value in values[:64]:
            yield from _limits(value, name)
    elif isinstance(values, int) and not isinstance(values, bool) and any(limit in name for limit in _LIMITS):
        yield values
