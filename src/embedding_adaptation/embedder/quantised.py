"""Frozen linear layers in 8-bit integers: weights scaled by output channel, activations by token, everything in between in float32.

The float weights stay where they are. Within :meth:`QuantisedLayers.running`, and only there, the linear layers of a decoder multiply 8-bit
copies instead, with oneDNN's integer kernels as torch ships them. Training, recording, saving and exporting never see the copies.

A few texts calibrate the copies. Channels in which activations are large are divided by a power of two, and the weights multiplied by it.
Where one scale a token is still too coarse, what it leaves over is quantised as well and multiplied in a second product. The last layer
stays in float32: no later layer averages its errors out, and pooled attention outputs are its own.

References:
    Dettmers et al., LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale (NeurIPS 2022): one scale for each row of the
    activations and one for each column of the weights.

    Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models (ICML 2023).
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from embedding_adaptation.embedder.decoder_pass import decoder_layers, decoder_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel

_LEVELS = 127  # symmetric: -127 to 127
_LEAST = 1e-12  # scale of a row of zeros
_PROBE_WIDTH = 64
_SMOOTHING = 0.5  # exponent of the channels' peaks
_COARSE = 0.015  # mean relative error of a token's activations above which they are quantised in two parts


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


@dataclass(frozen=True, eq=False)
class Preparation:
    """How the input of linear layers is quantised.

    Attributes:
        shrink: Factor of each channel, ``[in]``, a power of two.
        in_two: Whether what one part leaves over is quantised as well.
    """

    shrink: torch.Tensor
    in_two: bool = False

    @classmethod
    def of(cls, states: torch.Tensor) -> Preparation:
        """The preparation that suits inputs like these, ``[M, in]``."""
        peaks = states.abs().amax(0).clamp_(min=_LEAST)  # [in]
        shrink = torch.exp2(-(peaks.log2() * _SMOOTHING).round())
        smooth = states * shrink
        smooth = smooth[smooth.abs().amax(1) > 0]  # [M', in]
        integers, scales = quantise_rows(smooth)
        errors = (integers * scales - smooth).norm(dim=1) / smooth.norm(dim=1)  # [M']
        return cls(shrink, in_two=bool(errors.mean() > _COARSE))

    def quantise(self, states: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs ``[M, in]`` as one or two pairs of integers ``[M, in]`` and scales ``[M, 1]``, whose products are added."""
        smooth = states * self.shrink
        if not self.in_two:
            return [quantise_rows(smooth)]
        first, scales = quantise_rows(smooth)
        rest = smooth.div_(scales).sub_(first)  # within half a level
        return [(first, scales), (rest.mul_(2 * _LEVELS).round_().to(torch.int8), scales / (2 * _LEVELS))]


class QuantisedWeight:
    """A weight in 8 bits.

    Args:
        weight: ``[out, in]``.
        bias: ``[out]``, or ``None``.
        preparation: How its inputs are quantised; ``None`` is in one part as they are.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, preparation: Preparation | None = None) -> None:
        self.preparation = preparation or Preparation(torch.ones(weight.shape[1]))
        integers, scales = quantise_rows(weight.detach().float() / self.preparation.shrink)
        self.integers = integers.T  # [in, out]
        self.scales = scales[:, 0].contiguous()  # [out]
        self.bias = None if bias is None else bias.detach().float()

    def multiply(self, parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """The product of quantised inputs (see :meth:`Preparation.quantise`) with the weight, ``[M, out]`` float32."""
        product, *others = (torch._int_mm(part, self.integers).to(torch.float32).mul_(scales) for part, scales in parts)  # noqa: SLF001
        for other in others:
            product.add_(other)
        product.mul_(self.scales)
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
            product = QuantisedWeight(largest).multiply([quantise_rows(largest)])
    except (AttributeError, RuntimeError):
        return False
    return bool((product == float(_PROBE_WIDTH * _LEVELS**2)).all())


class QuantisedLayers:
    """8-bit copies of the linear layers of a decoder, an adapter merged into them; all but the last layer's.

    Args:
        backbone: A decoder without vocabulary head in float32, or a PEFT model around one; its weights are not changed.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        self._weights: dict[torch.nn.Module, QuantisedWeight] = {}
        self._seen: dict[torch.nn.Module, list[torch.Tensor]] = {}
        self._last: tuple[torch.Tensor, Preparation, list[tuple[torch.Tensor, torch.Tensor]]] | None = None
        for layer in decoder_layers(decoder_of(backbone))[:-1]:
            inside: set[torch.nn.Module] = set()
            for module in layer.modules():
                linear = getattr(module, "base_layer", module)
                if module not in inside and type(linear) is torch.nn.Linear and linear.weight.dtype == torch.float32:
                    inside.update(module.modules())
                    self._seen[module] = []

    def __len__(self) -> int:
        return len(self._seen) or len(self._weights)

    @contextmanager
    def calibrating(self) -> Iterator[None]:
        """Make the copies, in the way that suits what the layers are given here."""
        handles = [module.register_forward_pre_hook(self._watch) for module in self._seen]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        preparations: dict[tuple[int, ...], Preparation] = {}
        with torch.inference_mode():
            for module, states in self._seen.items():
                key = tuple(map(id, states))  # queries, keys and values share their inputs
                if key not in preparations:
                    preparations[key] = Preparation.of(torch.cat([one.flatten(0, -2) for one in states]))
                merged = _merged(module)
                self._weights[module] = QuantisedWeight(merged.weight, merged.bias, preparations[key])
        self._seen = {}

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

    def _watch(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._seen[module].append(inputs[0])

    def _forward(self, weight: QuantisedWeight) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(states: torch.Tensor) -> torch.Tensor:
            # What reads the same states shares their integers.
            if self._last is None or self._last[0] is not states or self._last[1] is not weight.preparation:
                self._last = (states, weight.preparation, weight.preparation.quantise(states.flatten(0, -2)))
            return weight.multiply(self._last[2]).unflatten(0, states.shape[:-1])

        return forward


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
