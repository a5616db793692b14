"""Whether packed rows see what the model's own masks let them see: looked up in the masks, at the lengths at which they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.masking_utils import sdpa_mask

from embedding_adaptation.embedder.decoder_pass import PackedDecoder, UnsupportedDecoderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig

_IMPLEMENTATION = "mask_probe"
# Fields of configurations that say at which length attention or positions change.
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
# Rotary embeddings that change with the longest sequence computed at once: a text's vector would depend on its company.
_CHANGING_ROPE = frozenset({"dynamic", "longrope"})
_BEYOND = 16


def limits_within(config: PreTrainedConfig, longest: int) -> list[int]:
    """The lengths below ``longest`` at which a model may begin to compute in another way, by the names in its configuration."""
    return sorted({value for value in _limits(config.to_dict()) if 1 < value < longest})


def check_masks(decoder: PackedDecoder, longest: int, *, vocabulary: int) -> None:
    """Check that a text may see in every layer what packed rows let it see: all that comes before, within the layer's window.

    Args:
        decoder: The decoder.
        longest: The longest sequence that will be computed.
        vocabulary: Rows of its embedding.

    Raises:
        UnsupportedDecoderError: If a layer's own mask is another one, or the model's positions change with the length.
    """
    config = decoder.decoder.config
    _check_rope(config, longest)
    limits = limits_within(config, longest)
    width = min(longest, (limits[-1] if limits else 0) + _BEYOND)
    found: list[tuple[torch.Tensor | None, int | None]] = []

    def record(
        module: torch.nn.Module,  # noqa: ARG001  the registry's signature
        query: torch.Tensor,
        key: torch.Tensor,  # noqa: ARG001
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        sliding_window: int | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        found.append((attention_mask, sliding_window))
        return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None

    ids = torch.arange(width, device=decoder.decoder.device)[None] % vocabulary  # [1, T]
    with torch.inference_mode(), decoder.implementation(_IMPLEMENTATION, record, mask=_whole_mask):
        decoder.decoder(input_ids=ids, use_cache=False)
    name = type(decoder.decoder).__name__
    distance = torch.arange(width)[:, None] - torch.arange(width)[None, :]  # [T, T]
    compared: set[tuple[int, int | None]] = set()
    for layer, (mask, window) in enumerate(found, start=1):
        if (id(mask), window) in compared:  # layers share their masks
            continue
        compared.add((id(mask), window))
        expected = distance >= 0 if window is None else (distance >= 0) & (distance < window)  # [T, T]
        own = distance >= 0 if mask is None else _allowed(mask)
        if own is None or own.shape[-2:] != expected.shape or not bool((own == expected).all()):
            msg = f"the mask of layer {layer} of {name} is not that of packed rows within {width} tokens"
            raise UnsupportedDecoderError(msg)


def _whole_mask(*args: Any, **kwargs: Any) -> torch.Tensor:
    """The model's own mask, also where it could be left out."""
    return sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


def _allowed(mask: torch.Tensor) -> torch.Tensor | None:
    """Where a mask lets look, or ``None`` where it adds something in between (a bias of positions)."""
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
                msg = f"its rotary embedding ({rope['rope_type']}) changes where a text is longer than {limit} tokens"
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
