"""Choosing the next token: temperature and nucleus sampling with random numbers supplied by the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

# Number of most likely tokens that nearly always suffice for any usual top_p; otherwise all tokens are sorted.
_LIKELIEST = 128


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 chooses the most likely token.
        top_p: The most likely tokens that together reach this probability are kept.
        max_new_tokens: Maximum length of an answer.
    """

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and one uniform random number between 0 and 1 for each token of the answer."""

    ids: Sequence[int]
    draws: Sequence[float]


def choose_tokens(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Choose one token per row from the most likely ones that together reach ``top_p``.

    Args:
        logits: ``[B, V]`` float32.
        draws: One number between 0 and 1 per row, ``[B]``.
        sampling: Temperature and ``top_p``.

    Returns:
        Token ids ``[B]``.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(dim=1)
    scaled = logits / sampling.temperature  # [B, V]
    total = scaled.logsumexp(dim=1, keepdim=True)  # [B, 1]
    count = min(_LIKELIEST, scaled.shape[1])
    best, ids = scaled.topk(count, dim=1)  # [B, count]
    shares = (best - total).exp()
    if count < scaled.shape[1] and bool((shares.sum(dim=1) < sampling.top_p).any()):
        best, ids = scaled.sort(dim=1, descending=True)
        shares = (best - total).exp()  # [B, V]
    reached = shares.cumsum(dim=1)
    kept = reached - shares < sampling.top_p  # [B, count], the first is always kept
    mass = (shares * kept).sum(dim=1)  # [B]
    place = (reached < (draws * mass)[:, None]).sum(dim=1)  # [B]
    place = torch.minimum(place, kept.sum(dim=1) - 1)
    return ids.gather(1, place[:, None])[:, 0]
