"""Pooling: how a sequence of token vectors becomes one vector.

Each function takes ``token_embeddings`` ``[B, T, D]``, ``attention_mask`` ``[B, T]`` (1 on real tokens) and ``text_mask`` ``[B, T]``
(1 on the text's own tokens, 0 on the prompt's) and returns ``[B, D]`` in the dtype of its input; sums run in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

PoolingName = Literal["mean", "text_mean", "last"]


def last_index(attention_mask: Tensor) -> Tensor:
    """Position of each row's last real token, ``[B]``; padding may be on either side."""
    positions = attention_mask.new_ones(attention_mask.shape[1]).cumsum(dim=0)  # [T], counted from 1
    return (attention_mask * positions).argmax(dim=1)  # [B]


def last(token_embeddings: Tensor, attention_mask: Tensor, text_mask: Tensor) -> Tensor:  # noqa: ARG001
    """The vector of the last real token: the only one that has seen the whole prompt."""
    index = last_index(attention_mask)[:, None, None].expand(-1, 1, token_embeddings.shape[2])  # [B, 1, D]
    return token_embeddings.gather(1, index).squeeze(1)  # [B, D]


def mean(token_embeddings: Tensor, attention_mask: Tensor, text_mask: Tensor) -> Tensor:  # noqa: ARG001
    """The mean over all real tokens, prompt included."""
    return _masked_mean(token_embeddings, attention_mask)


def text_mean(token_embeddings: Tensor, attention_mask: Tensor, text_mask: Tensor) -> Tensor:  # noqa: ARG001
    """The mean over the text's own tokens, prompt excluded."""
    return _masked_mean(token_embeddings, text_mask)


def _masked_mean(token_embeddings: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).float()  # [B, T, 1]
    total = (token_embeddings.float() * weights).sum(dim=1)  # [B, D]
    return (total / weights.sum(dim=1).clamp(min=1.0)).to(token_embeddings.dtype)  # [B, D]


POOLINGS: dict[PoolingName, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "text_mean": text_mean,
    "last": last,
}
assert set(POOLINGS) == set(get_args(PoolingName))  # noqa: S101  one list of names, kept in step
