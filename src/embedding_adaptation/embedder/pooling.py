"""Pooling: combining a sequence of token vectors into one vector.

Each function takes ``token_embeddings`` ``[B, T, D]``, ``attention_mask`` ``[B, T]`` (1 for real tokens) and ``text_mask`` ``[B, T]``
(1 for the text's tokens, 0 for the prompt's) and returns ``[B, D]`` in the dtype of its input; sums are computed in float32.

Two more poolings need the attention itself: ``attention_weighted`` (the mean of the text's token vectors, weighted by the last token's
attention to them) and ``value_weighted`` (the last token's attention output, that is, value vectors weighted by its attention and passed
through the output projection, arXiv 2602.01572). Their inputs come from :mod:`embedding_adaptation.embedder.decoder_pass`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

PoolingName = Literal["last", "eos", "mean", "text_mean", "weighted_mean", "last_mean", "max", "attention_weighted", "value_weighted"]
ATTENTION_POOLINGS = ("attention_weighted", "value_weighted")


def last_index(attention_mask: Tensor) -> Tensor:
    """Position of each row's last real token, ``[B]``; padding may be on either side."""
    positions = attention_mask.new_ones(attention_mask.shape[1]).cumsum(dim=0)  # [T], counted from 1
    return (attention_mask * positions).argmax(dim=1)  # [B]


def last(token_embeddings: Tensor, attention_mask: Tensor, text_mask: Tensor) -> Tensor:  # noqa: ARG001
    """The vector of the last real token, the only one that has seen the whole prompt."""
    index = last_index(attention_mask)[:, None, None].expand(-1, 1, token_embeddings.shape[2])  # [B, 1, D]
    return token_embeddings.gather(1, index).squeeze(1)  # [B, D]


def mean(token_embeddings: Tensor, attention_mask: Tensor, text_mask: Tensor) -> Tensor:  # noqa: ARG001
    """The mean over all real tokens, including the prompt."""
    return weighted_mean_of(token_embeddings, attention_mask)


def text_mean(token_embeddings: Tensor, attention_mask: Tensor, text_mask: Tensor) -> Tensor:
    """The mean over the text's tokens, excluding the prompt; over all tokens if the text has none."""
    return weighted_mean_of(token_embeddings, text_mask + attention_mask * (text_mask.sum(dim=1, keepdim=True) == 0))


def weighted_mean(token_embeddings: Tensor, attention_mask: Tensor, text_mask: Tensor) -> Tensor:  # noqa: ARG001
    """The mean over all real tokens, weighted by position from 1, because later tokens have seen more (arXiv 2202.08904)."""
    return weighted_mean_of(token_embeddings, attention_mask.cumsum(dim=1) * attention_mask)


def last_mean(token_embeddings: Tensor, attention_mask: Tensor, text_mask: Tensor) -> Tensor:
    """The last token's vector and the mean over all tokens, concatenated, ``[B, 2 D]``."""
    import torch

    return torch.cat([pool(token_embeddings, attention_mask, text_mask) for pool in (last, mean)], dim=1)  # [B, 2 D]


def maximum(token_embeddings: Tensor, attention_mask: Tensor, text_mask: Tensor) -> Tensor:  # noqa: ARG001
    """The largest value of each dimension over all real tokens."""
    return token_embeddings.masked_fill(attention_mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)  # [B, D]


def weighted_mean_of(token_embeddings: Tensor, weights: Tensor) -> Tensor:
    """The mean over tokens with the given weights ``[B, T]``; a zero vector if all weights are zero."""
    weights = weights.unsqueeze(-1).float()  # [B, T, 1]
    total = (token_embeddings.float() * weights).sum(dim=1)  # [B, D]
    return (total / weights.sum(dim=1).clamp(min=1e-20)).to(token_embeddings.dtype)  # [B, D]


# "eos" is "last" with a template that must end with an end token.
POOLINGS: dict[PoolingName, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "last": last,
    "eos": last,
    "mean": mean,
    "text_mean": text_mean,
    "weighted_mean": weighted_mean,
    "last_mean": last_mean,
    "max": maximum,
}
assert {*POOLINGS, *ATTENTION_POOLINGS} == set(get_args(PoolingName))  # noqa: S101  keeps the lists of names in sync
