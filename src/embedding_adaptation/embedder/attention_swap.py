"""A decoder's attention, replaced for a while: one swap, one guard and one mask builder for encoding, training, sampling and recording.

:func:`replaced_attention` puts one function in the place of the attention of all layers. What it computes is up to the
:class:`AttentionPass` that is running, which also checks that every layer called it exactly once and with the tokens of the pass: a layer
that mixes tokens in a way of its own would let texts see one another.

Names and shapes are the same throughout. A *row* is what is computed for one text; a *group* is a run of rows of equal width; the *prefix*
is what all rows have in front of them, computed once; a row's *layout* says which tokens of the prefix and which of its own each of its
tokens sees. ``N`` tokens make up a packed sequence, ``n`` rows a group, ``R`` tokens a row and ``P`` the prefix; there are ``H`` heads of
width ``d`` and ``KV`` key heads, each shared by ``G = H / KV`` heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.prompt_tree import RowLayout

IMPLEMENTATION = "replaced_attention"
# From this width on a fused kernel beats plain products on a CPU, and never holds all scores. Its backward pass is slow there.
_LONG_ROW = 1024


class UnsupportedDecoderError(RuntimeError):
    """A model whose attention cannot be replaced, or that does not compute what its own attention would."""


@contextmanager
def trying_out(name: str) -> Iterator[None]:
    """Within, an error that a model raises because packed rows lack something it expects (a mask, a batch) says that it cannot be packed.

    Raises:
        UnsupportedDecoderError: In its place.
    """
    try:
        yield
    except (UnsupportedDecoderError, torch.OutOfMemoryError):
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError) as error:
        msg = f"{name} cannot compute packed rows ({type(error).__name__}: {str(error)[:200]})"
        raise UnsupportedDecoderError(msg) from error


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """What one layer asks its attention for.

    Attributes:
        module: The layer's attention module.
        query: ``[B, H, T, d]``.
        key: ``[B, KV, T, d]``.
        value: ``[B, KV, T, d]``.
        mask: What :meth:`AttentionPass.model_mask` made for this layer.
        options: The other arguments of transformers' attention functions.
    """

    module: torch.nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    options: Mapping[str, Any]

    @property
    def layer(self) -> int:
        """The layer, counted from 0."""
        return int(self.module.layer_idx)

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        scaling = self.options.get("scaling")
        return float(self.query.shape[-1] ** -0.5 if scaling is None else scaling)

    @property
    def window(self) -> int | None:
        """How many tokens back a token sees, itself included; ``None`` is all of them."""
        return self.options.get("sliding_window")

    @property
    def softcap(self) -> float | None:
        """Bound of the scores."""
        return self.options.get("softcap")

    @property
    def repeats(self) -> int:
        """Heads that share a key head, ``G``."""
        return self.query.shape[1] // self.key.shape[1]


class AttentionPass(ABC):
    """One pass through a decoder whose attention is replaced: what each layer gets, and a record of the layers that asked.

    Attributes:
        calls: How often each layer, counted from 0, has asked.
    """

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self._shape = (0, 0)
        self._masks: dict[tuple[int, int | None, int], torch.Tensor] = {}  # by identity of what is seen, window and repeats

    @abstractmethod
    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attention of one layer, ``[B, T, H, d]``."""

    def model_mask(self, *_: Any, **__: Any) -> torch.Tensor | None:
        """The mask that transformers hands to the layers; none where the pass itself knows what each token sees."""
        return None

    @contextmanager
    def running(self, decoder: PreTrainedModel, layers: Iterable[int], shape: tuple[int, int]) -> Iterator[None]:
        """Within, this pass answers the decoder's attention; to be entered within :func:`replaced_attention`.

        Args:
            decoder: The decoder, for messages.
            layers: The layers that must ask exactly once, counted from 0.
            shape: Sequences of the pass and the tokens of each, ``(B, T)``.

        Raises:
            UnsupportedDecoderError: If a layer did not ask, asked more than once or for other tokens, or has learned sinks.
        """
        self._shape = shape
        token = _running.set(self)
        try:
            yield
        finally:
            _running.reset(token)
        expected = list(layers)
        once = sum(self.calls[layer] == 1 for layer in expected)
        if once != len(expected):
            msg = (
                f"{type(decoder).__name__} used the replaced attention exactly once in only {once} of {len(expected)} layers; "
                "the others mix tokens in their own way"
            )
            raise UnsupportedDecoderError(msg)

    def answer(self, call: AttentionCall) -> torch.Tensor:
        """Check a call, count it and :meth:`attend` to it."""
        name = type(call.module).__name__
        if call.options.get("s_aux") is not None:
            msg = f"{name} has learned attention sinks, which belong to no token"
            raise UnsupportedDecoderError(msg)
        for states in (call.query, call.key, call.value):
            if (states.shape[0], states.shape[2]) != self._shape:
                msg = f"{name} attends over {states.shape[0]} x {states.shape[2]} tokens in a pass of {self._shape[0]} x {self._shape[1]}"
                raise UnsupportedDecoderError(msg)
        self.calls[call.layer] += 1
        return self.attend(call)

    def mask(self, layout: RowLayout, call: AttentionCall, *, repeats: int = 1) -> torch.Tensor:
        """The additive mask of a layout's rows, ``[repeats * R, P + R]``, made once a pass."""
        key = (id(layout), call.window, repeats)
        if key not in self._masks:
            allowed = layout.allowed & visible(layout.positions[layout.shared :], layout.positions, call.window)  # [R, P + R]
            self._masks[key] = additive(allowed, call.query).repeat(repeats, 1)
        return self._masks[key]

    def fuses(self, call: AttentionCall, layout: RowLayout) -> bool:
        """Whether rows of a layout are computed by a fused kernel."""
        if call.softcap:
            return False
        return call.query.device.type != "cpu" or (layout.width >= _LONG_ROW and torch.is_inference_mode_enabled())

    def attend_rows(self, call: AttentionCall, layout: RowLayout, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention of rows of one layout.

        Args:
            call: What the layer asked for.
            layout: What the rows see.
            q: ``[n, H, R, d]``.
            k: ``[n, KV, P + R, d]``.
            v: ``[n, KV, P + R, d]``.

        Returns:
            ``[n, H, R, d]``.
        """
        if self.fuses(call, layout):
            k, v = (states.repeat_interleave(call.repeats, dim=1) for states in (k, v))  # [n, H, P + R, d]
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(layout, call), scale=call.scale)
        return plain_attention(q, k, v, self.mask(layout, call, repeats=call.repeats), scale=call.scale, softcap=call.softcap)


@contextmanager
def replaced_attention(decoder: PreTrainedModel) -> Iterator[None]:
    """Within, the attention of all layers is that of the :class:`AttentionPass` that is running.

    Raises:
        UnsupportedDecoderError: If the model does not let its attention be replaced.
    """
    before = decoder.config._attn_implementation  # noqa: SLF001  there is no public getter
    try:
        decoder.set_attn_implementation(IMPLEMENTATION)
    except (ValueError, AttributeError) as error:
        msg = f"{type(decoder).__name__} does not allow its attention to be replaced ({error})"
        raise UnsupportedDecoderError(msg) from error
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)


def visible(queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    """What causal attention lets a token see: itself and what comes before it, no further back than the window.

    Args:
        queries: Positions of the tokens that look, ``[..., Q]``.
        keys: Positions of those that are looked at, ``[K]``.
        window: How many tokens back a token sees, itself included; ``None`` is all of them.

    Returns:
        ``[..., Q, K]`` bool.
    """
    distance = queries[..., None] - keys  # [..., Q, K]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def additive(allowed: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask to add to scores: 0 where a token is allowed, else minus infinity; in the number format and on the device of ``like``."""
    return torch.zeros(allowed.shape, dtype=like.dtype, device=allowed.device).masked_fill_(~allowed, float("-inf")).to(like.device)


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *, scale: float, softcap: float | None
) -> torch.Tensor:
    """Attention as plain products; heads that share keys are computed as one long query.

    Args:
        query: ``[n, H, R, d]``.
        key: ``[n, KV, P + R, d]``.
        value: ``[n, KV, P + R, d]``.
        mask: Additive, ``[G R, P + R]``.
        scale: Factor of the scores.
        softcap: Bound of the scores.

    Returns:
        ``[n, H, R, d]``.
    """
    n, heads, length, width = query.shape
    shared = key.shape[1]
    q = query.reshape(n * shared, heads // shared * length, width)  # [n KV, G R, d]
    k, v = key.flatten(0, 1), value.flatten(0, 1)  # [n KV, P + R, d]
    if softcap:
        scores = softcap * torch.tanh(torch.bmm(q, k.transpose(1, 2)) * (scale / softcap)) + mask  # [n KV, G R, P + R]
    else:
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)  # [n KV, G R, P + R]
    return torch.bmm(scores.softmax(dim=-1), v).view(n, heads, length, v.shape[2])  # [n, H, R, d]


def attention_weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, *, scale: float, softcap: float | None) -> torch.Tensor:
    """Attention weights of a few tokens in float32.

    Args:
        query: ``[n, H, Q, d]``.
        key: ``[n, KV, K, d]``.
        mask: Additive, anything that broadcasts to ``[n, H, Q, K]``.
        scale: Factor of the scores.
        softcap: Bound of the scores.

    Returns:
        ``[n, H, Q, K]``.
    """
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).float()  # [n, H, K, d]
    scores = query.float() @ keys.transpose(2, 3) * scale  # [n, H, Q, K]
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores + mask.float()).softmax(dim=-1)


def behind(prefix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The prefix ``[KV, P, d]`` in front of every row ``[n, KV, R, d]``: ``[n, KV, P + R, d]``."""
    return torch.cat([prefix.expand(len(rows), -1, -1, -1), rows], dim=2)


_running: ContextVar[AttentionPass | None] = ContextVar("running_attention_pass", default=None)


def _replaced_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    running = _running.get()
    if running is None:
        msg = f"the attention of {type(module).__name__} is replaced, but no pass is running that could compute it"
        raise UnsupportedDecoderError(msg)
    return running.answer(AttentionCall(module, query, key, value, attention_mask, options)), None


def _model_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    running = _running.get()
    return running.model_mask(*args, **kwargs) if running else None


# Both registries: without its mask function an implementation silently runs without a mask.
AttentionInterface.register(IMPLEMENTATION, _replaced_attention)
AttentionMaskInterface.register(IMPLEMENTATION, _model_mask)
