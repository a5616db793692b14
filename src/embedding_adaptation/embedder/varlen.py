"""Attention of rows of any length in one call of flash attention, on CUDA.

What a row computes is cut into *strands*, in each of which every token sees the tokens before it and no other: the text after the prefix,
and each template's suffix after prefix and text. So one kernel for sequences of different lengths answers for all groups of a packed batch
at once, where plain attention makes a call for each width. Strands that begin alike read the same keys again; that costs memory traffic, no
products.

Without a GPU nothing here runs but the cutting, which tests compare with plain attention. On a GPU, the kernel is compared with plain
attention once for each number format and shape of heads, and not used (with a warning) if it differs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention.varlen import varlen_attn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from embedding_adaptation.embedder.attention_swap import AttentionCall
    from embedding_adaptation.embedder.prompt_tree import RowLayout

    Kernel = Callable[..., torch.Tensor]

logger = logging.getLogger(__name__)

_HALF = frozenset({torch.bfloat16, torch.float16})
_WIDEST_HEAD = 256
# The largest difference from plain attention in float32 relative to its largest value; half-precision rounding stays below a hundredth.
_TOLERANCE = 0.03


@dataclass(frozen=True, eq=False)
class Strands:
    """Runs of consecutive queries, and the keys that each run may see.

    The last query of a strand sees all its keys, the one before it all but the last, and so on.

    Attributes:
        query_counts: Number of queries in each strand, ``[S]`` int64, in the order of the queries.
        key_counts: Number of keys, ``[S]`` int64.
        keys: Places of the keys of all strands in turn, ``[K]`` int64.
    """

    query_counts: np.ndarray
    key_counts: np.ndarray
    keys: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Strands]) -> Strands:
        """The strands of several batches in turn."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("query_counts", "key_counts", "keys")))

    def attend(self, kernel: Kernel, call: AttentionCall, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention of all strands.

        Args:
            kernel: The result of :func:`kernel_of`.
            call: The layer's call, for scale and window.
            q: Queries, ``[Q, H, d]``.
            k: What :attr:`keys` points to, ``[.., KV, d]``.
            v: Likewise.

        Returns:
            ``[Q, H, d]``.
        """
        keys, query_ends, key_ends = self._on(q.device)
        window = (-1, 0) if call.window is None else (call.window - 1, 0)
        output: torch.Tensor = kernel(
            q.contiguous(),
            _Taken.apply(k, keys),
            _Taken.apply(v, keys),
            query_ends,
            key_ends,
            int(self.query_counts.max()),
            int(self.key_counts.max()),
            scale=call.scale,
            window_size=window,
            enable_gqa=call.repeats > 1,
        )
        return output

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Places of keys, and ends of queries and keys ``[S + 1]`` int32, on a device; moved there once."""
        if device not in self._moved:
            ends = [np.concatenate([[0], counts.cumsum()]).astype(np.int32) for counts in (self.query_counts, self.key_counts)]
            self._moved[device] = (
                torch.from_numpy(self.keys).to(device),
                torch.from_numpy(ends[0]).to(device),
                torch.from_numpy(ends[1]).to(device),
            )
        return self._moved[device]

    @cached_property
    def _moved(self) -> dict[torch.device, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        return {}


def strands_of_rows(rows: Iterable[tuple[int, int, RowLayout]]) -> Strands:
    """The strands of groups of rows behind a prefix.

    Args:
        rows: Of each group: the place of its first token in the packed sequence, its number of rows, and their layout.

    Returns:
        Strands whose keys are places in the prefix followed by the packed sequence.
    """
    return Strands.joined([_repeated(start, count, layout, _strands_of(layout)) for start, count, layout in rows])


def last_strands_of_rows(rows: Iterable[tuple[int, int, RowLayout]]) -> Strands:
    """Likewise, but only of the templates' last tokens, row by row; each is a strand of one query."""
    groups = []
    for start, count, layout in rows:
        own = [keys for _, keys in _strands_of(layout)]
        ends = {int(keys[-1]) - layout.shared: keys for keys in own}  # by the token at the end
        lasts = [ends.get(last, own[0][: layout.shared + last + 1]) for last in layout.last]
        groups.append(_repeated(start, count, layout, [(1, keys) for keys in lasts]))
    return Strands.joined(groups)


def strands_of_texts(shared: int, lengths: Sequence[int], *, last: bool = False) -> Strands:
    """The strands of a prefix of ``shared`` tokens, and of texts behind it that follow it in the packed sequence.

    Args:
        shared: Tokens of the prefix.
        lengths: Tokens of each text.
        last: Only the texts' last tokens, without the prefix.
    """
    counts = np.asarray(lengths, dtype=np.int64)
    starts = shared + counts.cumsum() - counts
    keys = [np.concatenate([np.arange(shared), np.arange(start, start + count)]) for start, count in zip(starts, counts, strict=True)]
    queries = np.ones_like(counts) if last else counts
    if shared and not last:
        keys, queries = [np.arange(shared), *keys], np.concatenate([[shared], queries])
    return Strands(queries, np.array([len(own) for own in keys], dtype=np.int64), np.concatenate(keys).astype(np.int64))


def kernel_of(call: AttentionCall) -> Kernel | None:
    """The kernel for a layer's call; ``None`` where there is none, or none that computes what plain attention does."""
    query, value = call.query, call.value
    if not query.is_cuda or query.dtype not in _HALF or call.softcap or value.shape[3] != query.shape[3] or query.shape[3] > _WIDEST_HEAD:
        return None
    return varlen_attn if _is_right(query.device, query.dtype, (query.shape[1], call.key.shape[1], query.shape[3])) else None


@lru_cache(maxsize=64)
def _is_right(device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]) -> bool:
    """Whether the kernel and its gradients are those of plain attention, tried on a few tokens."""
    try:
        difference = kernel_difference(varlen_attn, device, dtype, heads)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        logger.warning("Attention is computed width by width: flash attention does not run here (%s)", str(error).splitlines()[0][:200])
        return False
    if not difference <= _TOLERANCE:
        logger.warning(
            "Attention is computed width by width: flash attention differs from plain attention by %.3g here (%s)", difference, dtype
        )
        return False
    return True


def kernel_difference(kernel: Kernel, device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]) -> float:
    """The largest difference between a kernel and plain attention in float32, of outputs and gradients, relative to the largest value.

    Args:
        kernel: The kernel.
        device: Where it runs.
        dtype: The format that it is given.
        heads: Query heads, key heads, and their width.
    """
    count, shared, width = heads
    generator = torch.Generator().manual_seed(0)
    strands = strands_of_texts(5, [3, 1, 9, 40])
    tokens = 5 + 3 + 1 + 9 + 40
    shapes = ((tokens, count, width), (tokens, shared, width), (tokens, shared, width), (tokens, count, width))
    worst = 0.0
    with torch.inference_mode(mode=False), torch.enable_grad():
        *states, gradient = (torch.randn(shape, generator=generator).to(dtype).to(device) for shape in shapes)
        for window in (None, 7):
            results = []
            for exact in (False, True):
                own = [(state.float() if exact else state.clone()).requires_grad_() for state in states]
                call = _Shape(width**-0.5, window, count // shared)
                output = strands.attend(plain_kernel if exact else kernel, call, *own)  # type: ignore[arg-type]
                results.append([output, *torch.autograd.grad(output, own, gradient.to(output.dtype))])
            for got, expected in zip(*results, strict=True):
                worst = max(worst, float((got.float() - expected).abs().max() / expected.abs().max()))
    return worst


def plain_kernel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, query_ends: torch.Tensor, key_ends: torch.Tensor, *_: int, **options: Any
) -> torch.Tensor:
    """What the kernel computes, strand by strand with plain products: ``[Q, H, d]``, ``[K, KV, d]`` twice -> ``[Q, H, d]``."""
    repeats, (left, _right) = q.shape[1] // k.shape[1], options["window_size"]
    outputs = []
    for first, end, start, stop in zip(query_ends[:-1], query_ends[1:], key_ends[:-1], key_ends[1:], strict=True):
        keys, values = (states[start:stop].repeat_interleave(repeats, 1).transpose(0, 1) for states in (k, v))  # [H, K, d]
        scores = q[first:end].transpose(0, 1) @ keys.transpose(1, 2) * options["scale"]  # [H, Q, K]
        back = torch.arange(int(stop - start - (end - first)), int(stop - start), device=q.device)[:, None]
        back = back - torch.arange(int(stop - start), device=q.device)  # [Q, K]
        hidden = back < 0 if left < 0 else (back < 0) | (back > left)
        outputs.append((scores.masked_fill(hidden, float("-inf")).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(outputs)


@dataclass(frozen=True)
class _Shape:
    """The part of a call that :meth:`Strands.attend` asks for."""

    scale: float
    window: int | None
    repeats: int


def _strands_of(layout: RowLayout) -> list[tuple[int, np.ndarray]]:
    """Of a row's strands: number of queries, and places of keys in the prefix followed by the row."""
    prefix = np.arange(layout.shared)
    suffixes = [suffix for suffix in layout.suffix if suffix.stop > suffix.start]
    trunk = min((suffix.start for suffix in suffixes), default=layout.width)
    strands = [(trunk, np.arange(layout.shared + trunk))] if trunk else []
    for text, suffix in zip(layout.text, layout.suffix, strict=True):
        if suffix.stop > suffix.start:
            own = np.concatenate([np.arange(text.stop), np.arange(suffix.start, suffix.stop)])
            strands.append((suffix.stop - suffix.start, np.concatenate([prefix, layout.shared + own])))
    return strands


def _repeated(start: int, count: int, layout: RowLayout, strands: Sequence[tuple[int, np.ndarray]]) -> Strands:
    """The strands of one row, for ``count`` rows from ``start`` on."""
    queries = np.array([queries for queries, _ in strands], dtype=np.int64)
    keys = np.concatenate([keys for _, keys in strands]).astype(np.int64)
    moved = start + layout.width * np.arange(count)[:, None]  # [n, 1]
    own = keys >= layout.shared
    return Strands(
        np.tile(queries, count),
        np.tile(np.array([len(keys) for _, keys in strands], dtype=np.int64), count),
        (keys + moved * own).ravel(),
    )


class _Taken(torch.autograd.Function):
    """States at given places, ``[N, KV, d]`` -> ``[K, KV, d]``; gradients of a place taken more than once are added up in float32."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.places, ctx.shape = places, states.shape
        return states.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradient.new_zeros(ctx.shape, dtype=torch.float32).index_add_(0, ctx.places, gradient.float())
        return total.to(gradient.dtype), None
