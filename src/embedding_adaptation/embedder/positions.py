"""The maximum number of positions of a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedding_adaptation.embedder.decoder_pass import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def position_limit(backbone: PreTrainedModel) -> int | None:
    """The longest sequence a decoder can compute, or ``None`` if positions are computed rather than looked up.

    Args:
        backbone: A decoder, or a PEFT model around one.
    """
    decoder = decoder_of(backbone)
    config = decoder.config
    if config.model_type == "mpt":  # its biases have a fixed length
        return int(config.max_seq_len)
    declared = getattr(config, "max_position_embeddings", None)
    tokens = decoder.get_input_embeddings()
    sizes = []
    for name, module in decoder.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and module is not tokens and ("position" in last or last == "wpe"):
            sizes.append(module.num_embeddings - int(getattr(module, "offset", 0)))  # some start counting at an offset
    for name, buffer in decoder.named_buffers():
        if name.rpartition(".")[2] in {"embed_positions", "pos_encoding"}:  # sines of every position, looked up
            sizes.append(buffer.shape[0])
    if not sizes:
        return None
    return min([*sizes, int(declared)] if declared else sizes)
