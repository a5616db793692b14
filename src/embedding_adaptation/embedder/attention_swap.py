"""Temporary replacement of a decoder's attention: one swap, one guard and one mask builder for encoding, training, sampling and recording.

:func:`replaced_attention` puts one function in place of the attention of all layers. What it computes is up to the running
:class:`AttentionPass`, which also checks that every layer called it exactly once and with the tokens of the pass: a layer that mixes tokens
in its own way would let texts see one another.

Terms and shapes are the same throughout. A *row* is what is computed for one text; a *group* is a run of rows of equal width; the *prefix*
precedes all rows and is computed once; a row's *layout* says which tokens of the prefix and of the row each of its tokens sees. ``N`` is
the number of tokens in a packed sequence, ``n`` the number of rows in a group, ``R`` the number of tokens in a row and ``P`` in the prefix;
there are ``H`` heads of width ``d`` and ``KV`` key heads, each shared by ``G = H / KV`` heads.
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
# From this width on, a fused kernel beats plain products on a CPU and never stores all scores; its backward pass is slow there.
_LONG_ROW = 1024


class UnsupportedDecoderError(RuntimeError):
    """A model whose attention cannot be replaced, or that computes something else when it is."""


@contextmanager
def trying_out(name: str) -> Iterator[None]:
    """Turn an error raised because packed rows lack something the model expects (a mask, a batch) into one that says so.

    Raises:
        UnsupportedDecoderError: In place of that error.
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
    """One layer's call to its attention.

    Attributes:
        module: The layer's attention module.
        query: ``[B, H, T, d]``.
        key: ``[B, KV, T, d]``.
        value: ``[B, KV, T, d]``.
        mask: The result of :meth:`AttentionPass.model_mask` for this layer.
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
        """How many tokens back a token sees, including itself; ``None`` means all."""
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
    """One pass through a decoder whose attention is replaced, with a record of the layers that called it.

    Attributes:
        calls: Number of calls by layer, counted from 0.
    """

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self._shape = (0, 0)
        self._masks: dict[tuple[int, int | None, int], torch.Tensor] = {}  # by identity of layout or lane, window and repeats

    @abstractmethod
    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attention of one layer, ``[B, T, H, d]``."""

    def model_mask(self, *_: Any, **__: Any) -> torch.Tensor | None:
        """The mask that transformers passes to the layers; ``None`` if the pass itself knows what each token sees."""
        return None

    @contextmanager
    def running(self, decoder: PreTrainedModel, layers: Iterable[int], shape: tuple[int, int]) -> Iterator[None]:
        """Let this pass compute the decoder's attention; to be entered within :func:`replaced_attention`.

        Args:
            decoder: The decoder, for messages.
            layers: The layers that must call it exactly once, counted from 0.
            shape: Number of sequences and of tokens in each, ``(B, T)``.

        Raises:
            UnsupportedDecoderError: If a layer made no call, more than one or one for other tokens, or has learned attention sinks.
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
                f"{type(decoder).__name__} used the replaced attention exactly once in {once} of {len(expected)} layers; "
                "the others mix tokens in their own way"
            )
            raise UnsupportedDecoderError(msg)

    def answer(self, call: AttentionCall) -> torch.Tensor:
        """Check and count a call, and compute its attention with :meth:`attend`."""
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
        """The additive mask of a layout's rows, ``[repeats * R, P + R]``, computed once per pass."""
        key = (id(layout), call.window, repeats)
        if key not in self._masks:
            allowed = layout.allowed & visible(layout.positions[layout.shared :], layout.positions, call.window)  # [R, P + R]
            self._masks[key] = additive(allowed, call.query).repeat(repeats, 1)
        return self._masks[key]

    def fuses(self, call: AttentionCall, layout: RowLayout) -> bool:
        """Whether a fused kernel computes the rows of a layout."""
        if call.softcap:
            return False
        return call.query.device.type != "cpu" or (layout.width >= _LONG_ROW and torch.is_inference_mode_enabled())

    def attend_rows(self, call: AttentionCall, layout: RowLayout, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Compute the attention of rows with one layout.

        Args:
            call: The layer's call.
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
    """Let the running :class:`AttentionPass` compute the attention of all layers.

    Raises:
        UnsupportedDecoderError: If the model does not allow its attention to be replaced.
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
    """What a token sees in causal attention: itself and the tokens before it, within the window.

    Args:
        queries: Positions of the querying tokens, ``[..., Q]``.
        keys: Positions of the tokens that may be seen, ``[K]``.
        window: How many tokens back a token sees, including itself; ``None`` means all.

    Returns:
        ``[..., Q, K]`` bool.
    """
    distance = queries[..., None] - keys  # [..., Q, K]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def additive(allowed: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask to add to scores: 0 where allowed, minus infinity elsewhere, with the dtype and device of ``like``."""
    return torch.zeros(allowed.shape, dtype=like.dtype, device=allowed.device).masked_fill_(~allowed, float("-inf")).to(like.device)


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *, scale: float, softcap: float | None
) -> torch.Tensor:
    """Compute attention as plain products; heads that share keys form one long query.

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
    """Compute the attention weights of a few tokens in float32.

    Args:
        query: ``[n, H, Q, d]``.
        key: ``[n, KV, K, d]``.
        mask: Additive; broadcasts to ``[n, H, Q, K]``.
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


# Both registries are needed: without a mask function, an implementation silently runs without a mask.
AttentionInterface.register(IMPLEMENTATION, _replaced_attention)
AttentionMaskInterface.register(IMPLEMENTATION, _model_mask)
