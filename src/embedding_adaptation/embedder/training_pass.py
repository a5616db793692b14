"""A pass of a decoder over packed rows with gradients, beginning above the layers that never change.

What :mod:`~embedding_adaptation.embedder.decoder_pass` is for inference, this is for training: the tokens of all texts of a chunk go
through the linear layers as one sequence without padding; the template's words before the text are computed once for all of them, and
gradients flow back into them; layers below the lowest adapted one are left out, and their output is put in from outside. All of it gives
the gradients of the plain pass over padded prompts.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from embedding_adaptation.embedder.decoder_pass import (
    PackedDecoder,
    Prefix,
    RowGroup,
    UnsupportedDecoderError,
    Wanted,
    plain_attention,
    trying_out,
)
from embedding_adaptation.embedder.pooling import POOLINGS
from embedding_adaptation.embedder.probe import check_masks
from embedding_adaptation.embedder.prompt_tree import PromptTree, causal_layout
from embedding_adaptation.embedder.template import TokenizedPrompt, pad_prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.pooling import PoolingName
    from embedding_adaptation.embedder.template import Frame

_IMPLEMENTATION = "packed_training"
# Rows that differ by no more than this share in length are padded to one width, in attention only.
_PADDED_SHARE = 0.15
# Of packed and padded vectors, by whether the decoder computes in float32.
_LEAST_COSINE = {True: 0.99999, False: 0.99}


@dataclass
class _Block:
    """Rows computed in one attention call, padded to the longest."""

    start: int
    lengths: list[int]
    width: int
    padded: torch.Tensor | None  # [n W] int64, place of each padded token among the block's real ones
    real: torch.Tensor | None  # [tokens] int64, place of each real token among the padded ones

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass
class _Running:
    shared: int
    blocks: list[_Block]
    calls: int = 0
    masks: dict[Any, torch.Tensor] = field(default_factory=dict)


_running: ContextVar[_Running | None] = ContextVar("packed_training_running", default=None)


class GradientPass(Protocol):
    """Prompted texts to pooled vectors, with gradients: what training asks of a decoder.

    Attributes:
        decoder: The decoder, inside its adapter.
        frame: The template's token ids.
        first_layer: The lowest layer that gradients reach, counted from 0.
    """

    decoder: PreTrainedModel
    frame: Frame
    first_layer: int

    def row(self, text_ids: Sequence[int]) -> tuple[int, ...]:
        """The ids computed for one text, cut to the room the template leaves."""
        ...

    def training(self) -> AbstractContextManager[None]:
        """Within, :meth:`embed` may be called and its gradients taken."""
        ...

    def embed(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Pooled vectors of rows that :meth:`row` made, ``[n, D]`` in the decoder's number format, not normalised."""
        ...

    def check(self, rows: Sequence[Sequence[int]]) -> None:
        """Check on a few rows that the vectors are this model's own.

        Raises:
            UnsupportedDecoderError: If they are not.
        """
        ...


class TrainingPass:
    """The fast pass: packed rows, begun above the layers that never change.

    Args:
        backbone: A decoder without vocabulary head, or a PEFT model around one.
        frame: The template's token ids.
        pooling: How token vectors become one vector.
        first_layer: Layers below this one (counted from 0) are never changed by training; their output comes from :attr:`lower_source`.

    Attributes:
        lower_source: Gives the output of the layers below for rows; :meth:`lower_states`, or a store in front of it.

    Raises:
        UnsupportedDecoderError: If the decoder's layers cannot be found.
    """

    def __init__(self, backbone: PreTrainedModel, frame: Frame, pooling: PoolingName, first_layer: int = 0) -> None:
        self.packed = PackedDecoder(backbone)
        self.decoder = self.packed.decoder
        self.tree = PromptTree((frame,))
        self.frame = frame
        self.pooling = pooling
        self.first_layer = first_layer
        self.lower_source: Callable[[Sequence[tuple[int, ...]]], list[torch.Tensor]] = self.lower_states
        self._lower_prefix: Prefix | None = None

    def row(self, text_ids: Sequence[int]) -> tuple[int, ...]:
        """The ids computed for one text, cut to the room there is: everything but the template's shared beginning."""
        return tuple(self.tree.row(text_ids))

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within, the decoder's attention is that of packed rows with gradients.

        Raises:
            UnsupportedDecoderError: If the model's attention cannot be replaced.
        """
        with self.packed.implementation(_IMPLEMENTATION, _training_attention):
            yield

    def lower_states(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """What the layers below :attr:`first_layer` make of rows, without gradients.

        Args:
            rows: Rows that :meth:`row` made.

        Returns:
            For each row ``[R, D]`` in the decoder's number format.
        """
        wanted = Wanted(hidden=frozenset({self.first_layer}))
        with self.packed.packing(), torch.autocast(self.decoder.device.type, enabled=False):
            prefix = self._read_lower_prefix()
            order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
            groups: list[RowGroup] = []
            start = 0
            for index in order:
                width = len(rows[index])
                if groups and groups[-1].layout.width == width:
                    groups[-1].count += 1
                else:
                    groups.append(RowGroup(start, 1, self.tree.layout(width - self._around)))
                start += width
            result = self.packed.run([rows[index] for index in order], groups, prefix, wanted)
        states: list[torch.Tensor | None] = [None] * len(rows)
        at = 0
        for index in order:
            width = len(rows[index])
            states[index] = result.hidden[self.first_layer][at : at + width].clone()  # [R, D], outside of inference mode
            at += width
        return [state for state in states if state is not None]

    def embed(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Pooled vectors of rows; within :meth:`training`, and with gradients where they are switched on.

        Args:
            rows: Rows that :meth:`row` made. Rows of the same length side by side are fastest.

        Returns:
            ``[n, D]`` in the decoder's number format, not normalised.

        Raises:
            UnsupportedDecoderError: If a layer did not use the attention given to it, so that rows would have seen each other.
        """
        lower = self.lower_source([tuple(row) for row in rows]) if self.first_layer else None
        device, shared = self.decoder.device, len(self.tree.shared)
        lengths = [len(row) for row in rows]
        input_ids = torch.tensor([*self.tree.shared, *(token for row in rows for token in row)], device=device)  # [N]
        positions = torch.cat([torch.arange(shared), *(shared + torch.arange(length) for length in lengths)]).to(device)  # [N]
        state = _Running(shared, _blocks(lengths, device))
        token = _running.set(state)
        try:
            with self._starting_above(lower), _matching_formats(self.decoder):
                output = self.decoder(input_ids=input_ids[None], position_ids=positions[None], use_cache=False)
        finally:
            _running.reset(token)
        expected = len(self.packed.layers) - self.first_layer
        if state.calls != expected:
            msg = (
                f"{type(self.decoder).__name__} used the attention given to it in {state.calls} of {expected} layers; "
                "the others mix tokens in their own way"
            )
            raise UnsupportedDecoderError(msg)
        with _matching_formats(self.decoder):
            return self._pool(output.last_hidden_state[0], lengths)  # [n, D]

    def _pool(self, hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        shared = len(self.tree.shared)
        ends = shared + torch.tensor(lengths).cumsum(0)  # [n]
        if self.pooling in {"last", "eos"}:
            return hidden.index_select(0, (ends - 1).to(hidden.device))  # [n, D]
        width = shared + max(lengths)
        places = torch.zeros(len(lengths), width, dtype=torch.long)  # [n, P + R]
        mask, text = torch.zeros(len(lengths), width), torch.zeros(len(lengths), width)
        for row, (end, length) in enumerate(zip(ends.tolist(), lengths, strict=True)):
            places[row, :shared] = torch.arange(shared)
            places[row, shared : shared + length] = torch.arange(end - length, end)
            mask[row, : shared + length] = 1.0
            text[row, shared + self.tree.lead : shared + length - len(self.frame.suffix)] = 1.0
        padded = hidden[places.to(hidden.device)]  # [n, P + R, D]
        return POOLINGS[self.pooling](padded, mask.to(hidden.device), text.to(hidden.device))  # [n, D]

    def _read_lower_prefix(self) -> Prefix:
        """What the lower layers make of the words before all texts, computed once; within packing."""
        if self._lower_prefix is None:
            shared = self.tree.shared
            wanted = Wanted(hidden=frozenset({self.first_layer}))
            self._lower_prefix = self.packed.read_prefix(shared, causal_layout(len(shared)), wanted)
        return self._lower_prefix

    def check(self, rows: Sequence[Sequence[int]]) -> None:
        """Check on a few rows that packed rows give this model's own vectors.

        Raises:
            UnsupportedDecoderError: If they do not.
        """
        longest = len(self.frame.prefix) + self.frame.room + len(self.frame.suffix)
        with evaluating(self.decoder):
            with trying_out(type(self.decoder).__name__):
                check_masks(self.packed, longest, vocabulary=int(self.decoder.get_input_embeddings().weight.shape[0]))
                with self.training():
                    packed = self.embed(rows).float()  # [n, D]
            plain = PaddedPass(self.decoder, self.frame, self.pooling).embed(rows).float()  # [n, D]
        if (least := _least_cosine(packed, plain)) < _LEAST_COSINE[self.decoder.dtype == torch.float32]:
            msg = f"{type(self.decoder).__name__} gives other vectors in packed rows (cosine {least:.4f})"
            raise UnsupportedDecoderError(msg)

    @property
    def _around(self) -> int:
        """Tokens of a row that are not the text's."""
        return self.tree.lead + len(self.frame.suffix)

    @contextmanager
    def _starting_above(self, lower: Sequence[torch.Tensor] | None) -> Iterator[None]:
        """Within, layers below the first trained one pass on what they get, and that one is given their stored output."""
        if lower is None:
            yield
            return
        with self.packed.packing():
            prefix = self._read_lower_prefix()
        before = [prefix.hidden[self.first_layer].clone()] if self.tree.shared else []
        given = torch.cat([*before, *lower])[None]  # [1, N, D]

        def put_in(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})

        with ExitStack() as stack:
            for layer in self.packed.layers[: self.first_layer]:
                stack.enter_context(_passing_on(layer))
            handle = self.packed.layers[self.first_layer].register_forward_pre_hook(put_in, with_kwargs=True)
            stack.callback(handle.remove)
            yield


@contextmanager
def _passing_on(layer: torch.nn.Module) -> Iterator[None]:
    """Within, a layer returns its input."""

    def forward(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


class PaddedPass:
    """The slow pass, for decoders whose attention cannot be replaced: padded batches through the whole decoder, as transformers does it.

    Args:
        backbone: A decoder without vocabulary head, or a PEFT model around one.
        frame: The template's token ids.
        pooling: How token vectors become one vector.
    """

    first_layer = 0

    def __init__(self, backbone: PreTrainedModel, frame: Frame, pooling: PoolingName) -> None:
        inner = getattr(backbone, "get_base_model", None)
        self.decoder = inner() if inner else backbone
        self.tree = PromptTree((frame,))
        self.frame = frame
        self.pooling = pooling

    def row(self, text_ids: Sequence[int]) -> tuple[int, ...]:
        """The ids of one text behind the template's shared beginning, cut to the room there is."""
        return tuple(self.tree.row(text_ids))

    def training(self) -> AbstractContextManager[None]:
        """Nothing has to be prepared."""
        return nullcontext()

    def embed(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Pooled vectors of rows, ``[n, D]``."""
        start, end = len(self.frame.prefix), len(self.frame.suffix)
        prompts = [TokenizedPrompt((*self.tree.shared, *row), start, len(self.tree.shared) + len(row) - end) for row in rows]
        features = {name: value.to(self.decoder.device) for name, value in pad_prompts(prompts, 0).items()}
        with _matching_formats(self.decoder):
            output = self.decoder(input_ids=features["input_ids"], attention_mask=features["attention_mask"], use_cache=False)
            return POOLINGS[self.pooling](output.last_hidden_state, features["attention_mask"], features["text_mask"])  # [n, D]

    def check(self, rows: Sequence[Sequence[int]]) -> None:
        """Check on a few rows that padding changes nothing.

        Raises:
            UnsupportedDecoderError: If it does.
        """
        with evaluating(self.decoder):
            together = self.embed(rows).float()  # [n, D]
            alone = torch.cat([self.embed([row]) for row in rows]).float()  # [n, D]
        if (least := _least_cosine(together, alone)) < _LEAST_COSINE[self.decoder.dtype == torch.float32]:
            msg = f"{type(self.decoder).__name__} gives other vectors in padded batches (cosine {least:.4f}), so it cannot be trained"
            raise UnsupportedDecoderError(msg)


@contextmanager
def evaluating(decoder: torch.nn.Module) -> Iterator[None]:
    """Within, there is no dropout and no gradient."""
    was_training = decoder.training
    decoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        decoder.train(was_training)


def _matching_formats(decoder: PreTrainedModel) -> AbstractContextManager[Any]:
    """Within, an adapter's float32 weights are multiplied in the decoder's own format, which is twice as fast on a CPU."""
    return torch.autocast(decoder.device.type, dtype=decoder.dtype, enabled=decoder.dtype != torch.float32)


def _least_cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """The lowest cosine of rows ``[n, D]`` with each other's; below every bound where one is not a number."""
    return float(torch.nn.functional.cosine_similarity(one, other).min().nan_to_num(nan=-2.0))


def _blocks(lengths: Sequence[int], device: torch.device) -> list[_Block]:
    """Consecutive rows of about the same length."""
    blocks: list[_Block] = []
    start = at = 0
    while at < len(lengths):
        low = high = lengths[at]
        end = at + 1
        while end < len(lengths):
            new_low, new_high = min(low, lengths[end]), max(high, lengths[end])
            if new_high > new_low * (1 + _PADDED_SHARE) + 2:
                break
            low, high, end = new_low, new_high, end + 1
        chosen = list(lengths[at:end])
        padded = real = None
        if low != high:
            starts = torch.tensor([0, *chosen[:-1]]).cumsum(0)  # [n]
            within = torch.arange(high)[None, :]  # [1, W]
            sizes = torch.tensor(chosen)[:, None]  # [n, 1]
            padded = (starts[:, None] + within.minimum(sizes - 1)).flatten().to(device)  # [n W]
            real = (within < sizes).flatten().nonzero()[:, 0].to(device)  # [tokens]
        blocks.append(_Block(start, chosen, high, padded, real))
        start += sum(chosen)
        at = end
    return blocks


def _training_attention(
    module: torch.nn.Module,  # noqa: ARG001  the registry's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  the blocks say what is seen
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row and to the shared prefix; query ``[1, H, N, d]`` -> ``[1, N, H, d]``."""
    running = _running.get()
    if running is None or kwargs.get("s_aux") is not None:
        msg = "this model's attention has learned sinks, which packed rows do not know" if running else "no packed pass is running"
        raise UnsupportedDecoderError(msg)
    running.calls += 1
    shared, heads, key_heads = running.shared, query.shape[1], key.shape[1]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # [N, H, d], [N, KV, d] twice
    outputs = []
    with torch.autocast(query.device.type, enabled=False):
        if shared:
            prefix = [states[None, :shared].transpose(1, 2) for states in (q, k, v)]  # [1, H, P, d]
            mask = _causal_mask(running, 0, shared, sliding_window, query, heads // key_heads)
            outputs.append(_attention(prefix[0], prefix[1], prefix[2], mask, scale, softcap).transpose(1, 2)[0])  # [P, H, d]
        for block in running.blocks:
            n, width = len(block.lengths), block.width
            span = slice(shared + block.start, shared + block.start + block.tokens)
            rows = [_padded(states[span], block).unflatten(0, (n, width)).transpose(1, 2) for states in (q, k, v)]  # [n, H, W, d]
            if shared:
                for side, states in ((1, k), (2, v)):
                    before = states[None, :shared].transpose(1, 2).expand(n, -1, -1, -1)  # [n, KV, P, d]
                    rows[side] = torch.cat([before, rows[side]], dim=2)  # [n, KV, P + W, d]
            mask = _causal_mask(running, shared, width, sliding_window, query, heads // key_heads)
            attended = _attention(rows[0], rows[1], rows[2], mask, scale, softcap)  # [n, H, W, d]
            outputs.append(_unpadded(attended.transpose(1, 2).flatten(0, 1), block))  # [tokens, H, d]
    return torch.cat(outputs)[None], None


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    if q.device.type == "cpu" or softcap:  # on a CPU the fused kernel's backward is slow
        return plain_attention(q, k, v, mask, scale=scale, softcap=softcap)
    allowed = mask[: q.shape[2]]  # [W, P + W]
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def _causal_mask(running: _Running, shared: int, width: int, window: int | None, like: torch.Tensor, repeats: int) -> torch.Tensor:
    """Additive mask ``[repeats * W, P + W]``: padding stands behind the real tokens, and no real token looks ahead."""
    key = (shared, width, window)
    if key not in running.masks:
        distance = shared + torch.arange(width)[:, None] - torch.arange(shared + width)[None, :]  # [W, P + W]
        allowed = distance >= 0
        if window is not None:
            allowed &= distance < window
        mask = torch.zeros(allowed.shape, dtype=like.dtype).masked_fill_(~allowed, float("-inf"))
        running.masks[key] = mask.repeat(repeats, 1).to(like.device)
    return running.masks[key]


def _padded(states: torch.Tensor, block: _Block) -> torch.Tensor:
    """``[tokens, H, d]`` -> ``[n W, H, d]``; behind a row's end its last token stands again, and nobody sees it."""
    return states if block.padded is None or block.real is None else _Pad.apply(states, block.padded, block.real)


def _unpadded(states: torch.Tensor, block: _Block) -> torch.Tensor:
    """``[n W, H, d]`` -> ``[tokens, H, d]``."""
    return states if block.real is None else _Unpad.apply(states, block.real)


class _Pad(torch.autograd.Function):
    """``[tokens, H, d]`` -> ``[n W, H, d]``; its gradient is a plain copy, where torch would add up row by row."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, padded: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(real)
        return states.index_select(0, padded)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None  # padding has no gradient: nobody saw it


class _Unpad(torch.autograd.Function):
    """``[n W, H, d]`` -> ``[tokens, H, d]``; its gradient is a plain copy, too."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(real)
        ctx.rows = states.shape[0]
        return states.index_select(0, real)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = gradient.new_zeros(ctx.rows, *gradient.shape[1:])
        return whole.index_copy_(0, ctx.saved_tensors[0], gradient), None
