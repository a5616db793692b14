"""Layers of Llama's kind with few passes over memory and, in training, few stored activations.

What transformers and PEFT compute in some forty operations a layer, each of which stores what its gradient needs, are here three functions
with gradients written by hand: the norm with the products after it, the product after attention, and the feed-forward block. They store
the input of the layer's two halves, queries, keys and values, the gate and the other side of the feed-forward block, and what the adapter's
lower matrices gave; norms and activations are computed again. In the highest layer, only the tokens whose states are pooled are computed.
Values and gradients are those of the plain layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

# Decoders whose layers are of this kind: RMSNorm before each half, rotary positions, a gated feed-forward block, no dropout.
_KINDS = frozenset({"LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"})
_ADAPTED = "peft.tuners.lora.layer"


@dataclass(frozen=True, eq=False)
class _Product:
    """A frozen linear layer with or without a low-rank adapter.

    Attributes:
        weight: ``[out, in]``.
        bias: ``[out]``, or ``None``.
        down: The adapter's ``[r, in]``, or ``None``.
        up: The adapter's ``[out, r]``, or ``None``.
        scale: Factor of the adapter's product.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, module: torch.nn.Module, *, frozen: bool = False) -> _Product | None:
        """The product that a module computes; ``None`` if it is of another kind, or trains although it must be ``frozen``."""
        base: Any = getattr(module, "base_layer", module)
        if type(base) is not torch.nn.Linear or (frozen and base.weight.requires_grad):
            return None
        if base is module:
            return cls(base.weight, base.bias)
        return cls._adapted(module, base) if type(module).__name__ == "Linear" and type(module).__module__ == _ADAPTED else None

    @classmethod
    def _adapted(cls, module: Any, base: torch.nn.Linear) -> _Product | None:
        if module.disable_adapters or module.merged:
            return cls(base.weight, base.bias)
        active = [name for name in module.active_adapters if name in module.lora_A]
        if len(active) != 1 or any(module.use_dora.values()) or any(module.lora_bias.values()):
            return None
        (name,) = active
        if module.training and not isinstance(module.lora_dropout[name], torch.nn.Identity):
            return None
        return cls(base.weight, base.bias, module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name]))


class _Prepared:
    """A product with the adapter's matrices in the format of the states."""

    def __init__(self, product: _Product, down: torch.Tensor | None, up: torch.Tensor | None) -> None:
        self.weight, self.bias, self.scale = product.weight, product.bias, product.scale
        self.down = None if down is None else down.to(product.weight.dtype)  # [r, in]
        self.up = None if up is None else (up * product.scale).to(product.weight.dtype)  # [out, r]

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The product ``[N, out]`` of ``[N, in]``, and what the lower matrix gave, ``[N, r]``."""
        output = torch.nn.functional.linear(states, self.weight, self.bias)
        if self.down is None or self.up is None:
            return output, None
        low = states @ self.down.T
        return output.addmm_(low, self.up.T), low

    def backward(
        self, gradient: torch.Tensor, states: torch.Tensor, low: torch.Tensor | None, into: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Gradients of the states (added to ``into`` if given), and of the adapter's lower and upper matrix."""
        of_states = gradient @ self.weight if into is None else into.addmm_(gradient, self.weight)  # [N, in]
        if low is None or self.down is None or self.up is None:
            return of_states, None, None
        of_low = gradient @ self.up  # [N, r]
        of_up = (gradient.T @ low).float().mul_(self.scale)  # [out, r]
        return of_states.addmm_(of_low, self.down), (of_low.T @ states).float(), of_up


def _normed(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm as transformers computes it, ``[N, D]``."""
    exact = states.float()
    scale = torch.rsqrt(exact.square().mean(-1, keepdim=True).add_(epsilon))  # [N, 1]
    return (exact * scale).to(states.dtype).mul_(weight)


def _normed_backward(gradient: torch.Tensor, states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Gradient of the input of :func:`_normed`, ``[N, D]``."""
    exact = states.float()
    scale = torch.rsqrt(exact.square().mean(-1, keepdim=True).add_(epsilon))  # [N, 1]
    exact = exact * scale
    of_unit = (gradient * weight).float()  # [N, D]
    along = (of_unit * exact).mean(-1, keepdim=True)  # [N, 1]
    return of_unit.addcmul_(exact, along, value=-1.0).mul_(scale).to(states.dtype)


class _NormedProducts(torch.autograd.Function):
    """Products of normalised states: ``[N, D]`` -> one ``[N, out]`` for each product."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, norm: tuple[torch.Tensor, float], products: Sequence[_Product], *adapters: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        ctx.norm = norm
        ctx.products = [_Prepared(product, *adapters[2 * at : 2 * at + 2]) for at, product in enumerate(products)]
        normed = _normed(states, *norm)
        outputs, lows = zip(*(product.forward(normed) for product in ctx.products), strict=True)
        ctx.save_for_backward(states, *lows)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        states, *lows = ctx.saved_tensors
        normed = _normed(states, *ctx.norm)
        total: torch.Tensor | None = None
        of_adapters: list[torch.Tensor | None] = []
        for product, gradient, low in zip(ctx.products, gradients, lows, strict=True):
            total, *own = product.backward(gradient, normed, low, total)
            of_adapters += own
        assert total is not None  # noqa: S101  there is at least one product
        of_states = _normed_backward(total, states, *ctx.norm) if ctx.needs_input_grad[0] else None
        return of_states, None, None, *of_adapters


class _AddedProduct(torch.autograd.Function):
    """A product added to the residual states: ``[N, in]`` and ``[N, D]`` -> ``[N, D]``."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, residual: torch.Tensor, product: _Product, down: torch.Tensor | None, up: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.product = _Prepared(product, down, up)
        output, low = ctx.product.forward(states)
        ctx.save_for_backward(states, low)
        return output.add_(residual)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        states, low = ctx.saved_tensors
        of_states, of_down, of_up = ctx.product.backward(gradient, states, low)
        return of_states, gradient, None, of_down, of_up


class _FeedForward(torch.autograd.Function):
    """The second half of a layer, its residual included: ``[N, D]`` -> ``[N, D]``."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, norm: tuple[torch.Tensor, float], products: Sequence[_Product], *adapters: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.norm = norm
        gate, up, down = ctx.products = [_Prepared(product, *adapters[2 * at : 2 * at + 2]) for at, product in enumerate(products)]
        normed = _normed(states, *norm)
        gates, gate_low = gate.forward(normed)  # [N, F]
        ups, up_low = up.forward(normed)  # [N, F]
        output, down_low = down.forward(torch.nn.functional.silu(gates).mul_(ups))  # [N, D]
        ctx.save_for_backward(states, gates, ups, gate_low, up_low, down_low)
        return output.add_(states)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        states, gates, ups, gate_low, up_low, down_low = ctx.saved_tensors
        gate, up, down = ctx.products
        active = torch.nn.functional.silu(gates)  # [N, F]
        of_inner, *of_down = down.backward(gradient, active * ups, down_low)  # [N, F]
        of_ups = active.mul_(of_inner)  # [N, F]
        of_gates = torch.ops.aten.silu_backward(of_inner.mul_(ups), gates)  # [N, F]
        normed = _normed(states, *ctx.norm)
        of_normed, *of_gate = gate.backward(of_gates, normed, gate_low)
        of_normed, *of_up = up.backward(of_ups, normed, up_low, of_normed)
        of_states = _normed_backward(of_normed, states, *ctx.norm).add_(gradient) if ctx.needs_input_grad[0] else None
        return of_states, None, None, *of_gate, *of_up, *of_down


class LeanAttention(Protocol):
    """The attention between tokens of a packed sequence."""

    def of_tokens(self, module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
        """Attention of all tokens: ``[N, H, d]``, ``[N, KV, d]`` twice -> ``[N, H, d]``."""
        ...

    def of_last(self, module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
        """Attention of every row's last token: ``[n, H, d]``, ``[N, KV, d]`` twice -> ``[n, H, d]``."""
        ...


class LeanLayers:
    """The layers of a decoder from one layer on.

    Args:
        decoder: A decoder whose frozen weights need no gradient; adapters on it may. Without gradients, no weight is asked.
        first_layer: The lowest layer computed, counted from 0.
        training: Whether gradients may be taken.
    """

    def __init__(self, decoder: PreTrainedModel, first_layer: int = 0, *, training: bool = True) -> None:
        self.decoder: Any = decoder
        self.first_layer = first_layer
        self.training = training

    @property
    def fits(self) -> bool:
        """Whether the decoder, as it is now, is of the kind that is computed here."""
        decoder = self.decoder
        if type(decoder).__name__ not in _KINDS or decoder.config.hidden_act != "silu":
            return False
        if decoder.training and getattr(decoder.config, "attention_dropout", 0.0):
            return False
        if any(_is_changed(module) for layer in decoder.layers[self.first_layer :] for module in layer.modules()):
            return False
        return all(
            _Product.of(getattr(part, name), frozen=self.training) is not None
            for layer in decoder.layers[self.first_layer :]
            for part, names in ((layer.self_attn, "qkvo"), (layer.mlp, ("gate", "up", "down")))
            for name in (f"{name}_proj" for name in names)
        )

    def run(self, states: torch.Tensor, positions: torch.Tensor, attention: LeanAttention, last: torch.Tensor | None) -> torch.Tensor:
        """Compute the layers and the final norm.

        Args:
            states: Hidden states of the layers below, ``[N, D]``.
            positions: ``[N]``.
            attention: The attention of the packed sequence.
            last: Places of the rows' last tokens, ``[n]``, if only these are wanted.

        Returns:
            ``[N, D]``, or ``[n, D]``.
        """
        rotary = self.rotary(states, positions)
        layers = self.decoder.layers[self.first_layer :]
        for number, layer in enumerate(layers, start=1):
            _, residual, attended = self.mixed(layer, states, rotary, attention, last if number == len(layers) else None)
            states = self.fed(layer, self.added(layer, attended, residual))
        return self.final(states)

    def rotary(self, states: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions ``[N]``, ``[N, d]`` each."""
        cos, sin = self.decoder.rotary_emb(states, position_ids=positions[None])  # [1, N, d] each
        return cos[0], sin[0]

    def mixed(
        self,
        layer: Any,
        states: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        attention: LeanAttention,
        last: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A layer up to its attention.

        Returns:
            The states; those of the wanted tokens, ``[n, D]``, or again all; and what these have attended to, before its product.
        """
        own = layer.self_attn
        window = getattr(own, "sliding_window", getattr(self.decoder.config, "sliding_window", None))
        norm = (layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
        q_product, k_product, v_product = (_product(getattr(own, f"{name}_proj")) for name in "qkv")
        wanted = states
        if last is None:
            q, k, v = _normed_products(states, norm, [q_product, k_product, v_product])
        else:
            k, v = _normed_products(states, norm, [k_product, v_product])
            wanted = states.index_select(0, last)  # [n, D]
            (q,) = _normed_products(wanted, norm, [q_product])
        q, k, v = (part.unflatten(1, (-1, own.head_dim)) for part in (q, k, v))  # [N, H, d], [N, KV, d] twice
        if hasattr(own, "q_norm"):
            q, k = own.q_norm(q), own.k_norm(k)
        cos, sin = rotary
        if last is None:
            q, k = apply_rotary_pos_emb(q, k, cos, sin)
            attended = attention.of_tokens(own, q, k, v, window)
        else:
            attended = attention.of_last(own, _rotated(q, cos[last], sin[last]), _rotated(k, cos, sin), v, window)
        return states, wanted, attended.flatten(1)

    @staticmethod
    def product(layer: Any, attended: torch.Tensor) -> torch.Tensor:
        """The output of a layer's attention, without gradients: ``[N, H d]`` -> ``[N, D]``."""
        product = _product(layer.self_attn.o_proj)
        return _Prepared(product, product.down, product.up).forward(attended)[0]

    @staticmethod
    def added(layer: Any, attended: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """The states with the output of the layer's attention, ``[N, D]``."""
        product = _product(layer.self_attn.o_proj)
        output: torch.Tensor = _AddedProduct.apply(attended, states, product, product.down, product.up)
        return output

    @staticmethod
    def fed(layer: Any, states: torch.Tensor) -> torch.Tensor:
        """The states after the layer's feed-forward block, ``[N, D]``."""
        products = [_product(getattr(layer.mlp, f"{name}_proj")) for name in ("gate", "up", "down")]
        norm = (layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon)
        output: torch.Tensor = _FeedForward.apply(states, norm, products, *(part for p in products for part in (p.down, p.up)))
        return output

    def final(self, states: torch.Tensor) -> torch.Tensor:
        """The states after the decoder's last norm, ``[N, D]``."""
        output: torch.Tensor = self.decoder.norm(states)
        return output


def lowest_adapted(layers: Sequence[torch.nn.Module]) -> int:
    """The lowest of a decoder's layers with an adapter, counted from 0; their number if none has one."""
    adapted = (number for number, layer in enumerate(layers) if any(hasattr(module, "base_layer") for module in layer.modules()))
    return next(adapted, len(layers))


def _is_changed(module: torch.nn.Module) -> bool:
    """Whether a module computes something else than its class as it was written, or is watched."""
    written = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    if "forward" in vars(module) or vars(written)["forward"].__module__ != written.__module__:
        return True
    return bool(module._forward_hooks or module._forward_pre_hooks)  # noqa: SLF001  there is no public getter


def _product(module: torch.nn.Module) -> _Product:
    product = _Product.of(module)
    assert product is not None  # noqa: S101  LeanLayers.fits has been asked
    return product


def _normed_products(states: torch.Tensor, norm: tuple[torch.Tensor, float], products: Sequence[_Product]) -> tuple[torch.Tensor, ...]:
    outputs: tuple[torch.Tensor, ...] = _NormedProducts.apply(states, norm, products, *(part for p in products for part in (p.down, p.up)))
    return outputs


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """States ``[N, H, d]`` turned by their positions."""
    turned: torch.Tensor = apply_rotary_pos_emb(states, states[:, :1], cos, sin)[0]
    return turned
