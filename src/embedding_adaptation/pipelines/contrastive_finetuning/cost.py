"""The cost of training: tokens, floating-point operations, and joules if the machine measures them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCache
    from embedding_adaptation.pipelines.contrastive_finetuning.lower_states import LowerStates

_RAPL = Path("/sys/class/powercap")


@contextmanager
def counting(cache: GradCache, lower_states: LowerStates | None, weights: Sequence[int]) -> Iterator[dict[str, float]]:
    """Count ``tokens``, ``operations`` and, if the machine measures them, ``joules`` within the block; filled in at its end.

    Args:
        cache: Embeds the batches.
        lower_states: Output of the layers below; ``None`` where every layer is trained.
        weights: Number of weights of each layer, from :func:`layer_weights`.
    """
    spent: dict[str, float] = {}
    before, again = cache.tokens, cache.tokens_again
    below = lower_states.tokens_computed if lower_states else 0
    meter = joules()
    yield spent
    backward = cache.tokens - before
    forward = backward + cache.tokens_again - again
    lower = lower_states.tokens_computed - below if lower_states else 0
    first = cache.training_pass.first_layer
    spent |= {"tokens": forward, "operations": operations(weights, first, forward=forward, backward=backward, lower=lower)}
    after = joules()
    if meter is not None and after is not None and after >= meter:
        spent["joules"] = after - meter


def layer_weights(layers: Sequence[torch.nn.Module]) -> list[int]:
    """Number of weights of each layer, without adapters."""
    return [sum(weight.numel() for name, weight in layer.named_parameters() if "lora_" not in name and weight.ndim > 1) for layer in layers]


def operations(weights: Sequence[int], first_layer: int, *, forward: int, backward: int, lower: int) -> float:
    """Floating-point operations of the linear layers, two per weight and token; without attention, norms and the adapter.

    Args:
        weights: Weights of each layer.
        first_layer: The lowest layer that is trained.
        forward: Tokens that passed through the trained layers, including second passes.
        backward: Tokens whose gradients passed back through them; gradients of frozen weights are not computed.
        lower: Tokens that passed through the layers below.
    """
    return 2.0 * (sum(weights[first_layer:]) * (forward + backward) + sum(weights[:first_layer]) * lower)


def joules(folder: Path = _RAPL) -> float | None:
    """The energy counted so far by the processors' meters (RAPL); ``None`` if there are none or they cannot be read.

    The counters overflow after some hours: a negative difference is meaningless.
    """
    total = 0.0
    has_meter = False
    for meter in sorted(folder.glob("intel-rapl:[0-9]*")):
        if meter.name.count(":") > 1:  # parts of a package are counted in it
            continue
        try:
            total += int((meter / "energy_uj").read_text()) / 1e6
            has_meter = True
        except (OSError, ValueError):
            continue
    return total if has_meter else None
