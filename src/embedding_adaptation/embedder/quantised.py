"""Frozen linear layers in 8-bit integers: weights scaled by output channel, activations by token, everything in between in float32.

The float weights stay where they are. Within :meth:`QuantisedLayers.running`, and only there, the linear layers of a decoder multiply 8-bit
copies instead, with oneDNN's integer kernels as torch ships them. Training, recording, saving and exporting never see the copies.

References:
    Dettmers et al., LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale (NeurIPS 2022): one scale for each row of the
    activations and one for each column of the weights.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from embedding_adaptation.embedder.decoder_pass import decoder_layers, decoder_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

_LEVELS = 127  # symmetric: -127 to 127
_LEAST = 1e-12  # scale of a row of zeros
_PROBE_WIDTH = 64


def quantise_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise each row symmetrically by its largest absolute value.

    Args:
        values: ``[M, K]`` float32.

    Returns:
        ``[M, K]`` int8, and the rows' scales ``[M, 1]`` float32.
    """
    # amax and amin are vectorised in torch, while aminmax and the infinity norm are many times slower.
    scales = torch.maximum(values.amax(1, keepdim=True), values.amin(1, keepdim=True).neg_()).div_(_LEVELS).clamp_(min=_LEAST)  # [M, 1]
    return values.mul(scales.reciprocal()).round_().to(torch.int8), scales


class QuantisedWeight:
    """A weight in 8 bits.

    Args:
        weight: ``[out, in]``.
        bias: ``[out]``, or ``None``.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        integers, scales = quantise_rows(weight.detach().float())
        self.integers = integers.T  # [in, out]
        self.scales = scales[:, 0].contiguous()  # [out]
        self.bias = None if bias is None else bias.detach().float()

    def multiply(self, integers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """The product of quantised rows ``[M, in]`` (see :func:`quantise_rows`) with the weight, ``[M, out]`` float32."""
        product = torch._int_mm(integers, self.integers).to(torch.float32)  # noqa: SLF001  there is no public function
        product.mul_(scales).mul_(self.scales)  # [M, out]
        return product if self.bias is None else product.add_(self.bias)


def quantisation_state(backbone: PreTrainedModel) -> int:
    """A number that changes when an adapter is switched on, off or to another."""
    adapters = [module for module in decoder_of(backbone).modules() if hasattr(module, "base_layer")]
    return hash(tuple((module.disable_adapters, *module.active_adapters) for module in adapters))


@lru_cache(maxsize=1)
def has_kernel() -> bool:
    """Whether this processor and this build of torch multiply 8-bit integers exactly.

    Some kernels for processors without VNNI add pairs of products in 16 bits, which overflow.
    """
    largest = torch.full((_PROBE_WIDTH, _PROBE_WIDTH), float(_LEVELS))  # [M, K], whose scale is 1
    try:
        with torch.inference_mode():
            product = QuantisedWeight(largest).multiply(*quantise_rows(largest))
    except (AttributeError, RuntimeError):
        return False
    return bool((product == float(_PROBE_WIDTH * _LEVELS**2)).all())


class QuantisedLayers:
    """8-bit copies of the linear layers of a decoder, an adapter merged into them.

    Args:
        backbone: A decoder without vocabulary head in float32, or a PEFT model around one; its weights are not changed.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        self._weights: dict[torch.nn.Module, QuantisedWeight] = {}
        self._last: tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]] | None = None
        for layer in decoder_layers(decoder_of(backbone)):
            inside: set[torch.nn.Module] = set()
            for module in layer.modules():
                linear = getattr(module, "base_layer", module)
                if module in inside or type(linear) is not torch.nn.Linear or linear.weight.dtype != torch.float32:
                    continue
                inside.update(module.modules())
                merged = _merged(module)
                self._weights[module] = QuantisedWeight(merged.weight, merged.bias)

    def __len__(self) -> int:
        return len(self._weights)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the decoder multiply in 8 bits; for inference only."""
        for module, weight in self._weights.items():
            module.forward = self._forward(weight)
        try:
            yield
        finally:
            self._last = None
            for module in self._weights:
                del module.forward

    def _forward(self, weight: QuantisedWeight) -> object:
        def forward(states: torch.Tensor) -> torch.Tensor:
            rows = states.flatten(0, -2)  # [M, K]
            return weight.multiply(*self._quantised(states, rows)).unflatten(0, states.shape[:-1])

        return forward

    def _quantised(self, states: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries, keys and values read the same states, and so do gate and up: they are quantised once."""
        if self._last is None or self._last[0] is not states:
            self._last = (states, quantise_rows(rows))
        return self._last[1]


def _merged(module: torch.nn.Module) -> torch.nn.Linear:
    """A linear layer as it acts, with any adapter on it merged in a copy."""
    if isinstance(module, torch.nn.Linear) and not hasattr(module, "base_layer"):
        return module
    if module.disable_adapters or module.merged:
        base: torch.nn.Linear = module.base_layer
        return base
    alone = copy.deepcopy(module)
    alone.merge()
    merged: torch.nn.Linear = alone.base_layer
    return merged
