"""The processes that share a training run: one alone, or those that ``torchrun`` started, each with a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")


def world_size() -> int:
    """The number of processes."""
    return int(distributed.get_world_size()) if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0; the first one writes."""
    return int(distributed.get_rank()) if world_size() > 1 else 0


def gathered(own: torch.Tensor) -> torch.Tensor:
    """The tensors ``[b, D]`` of all processes in the order of their ranks, ``[B, D]``; only the own one is part of the graph.

    Every process takes the loss of the whole batch, so that the gradient with respect to its own vectors is complete.
    """
    if world_size() == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(world_size())]
    distributed.all_gather(parts, own.detach().contiguous())
    parts[rank()] = own
    return torch.cat(parts)


def add_up_gradients(weights: Iterable[torch.Tensor]) -> None:
    """Give every process the sum of all processes' gradients."""
    if world_size() > 1:
        for weight in weights:
            if weight.grad is not None:
                distributed.all_reduce(weight.grad)


def from_first(make: Callable[[], T]) -> T:
    """Compute a value in the first process and share it, so that rounding differences between devices cannot make processes diverge."""
    if world_size() == 1:
        return make()
    made: list[Any] = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(made)
    return made[0]
