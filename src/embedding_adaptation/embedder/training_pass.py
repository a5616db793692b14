"""A decoder pass over packed rows with gradients, starting above the layers that never change.

The counterpart of :mod:`~embedding_adaptation.embedder.decoder_pass` for training: the tokens of all texts of a chunk go through the linear
layers as one sequence without padding; the template's words before the text are computed once for all texts, and gradients flow back into
them; layers below the lowest adapted one are skipped, and their output is supplied from outside. The gradients equal those of the plain
pass over padded prompts.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch

from embedding_adaptation.embedder.attention_swap import (
    AttentionCall,
    AttentionPass,
    UnsupportedDecoderError,
    additive,
    behind,
    plain_attention,
    trying_out,
    visible,
)
from embedding_adaptation.embedder.decoder_pass import PackedDecoder, Prefix, Wanted, decoder_of, packed_call, row_groups
from embedding_adaptation.embedder.lean_layers import LeanLayers
from embedding_adaptation.embedder.pooling import POOLINGS
from embedding_adaptation.embedder.probe import check_masks
from embedding_adaptation.embedder.prompt_tree import PromptTree, causal_layout
from embedding_adaptation.embedder.template import TokenizedPrompt, pad_prompts
from embedding_adaptation.embedder.varlen import Strands, kernel_of, strands_of_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.pooling import PoolingName
    from embedding_adaptation.embedder.prompt_tree import RowLayout
    from embedding_adaptation.embedder.template import Frame

# Rows whose lengths differ by no more than this share are padded to the same width, in attention only.
_PADDED_SHARE = 0.15
# Between packed and padded vectors; the key says whether the decoder computes in float32.
_LEAST_COSINE = {True: 0.99999, False: 0.99}


@dataclass
class _PaddedGroup:
    """Rows computed in one attention call, padded to the longest."""

    start: int
    lengths: list[int]
    layout: RowLayout
    padded: torch.Tensor | None  # [n R] int64, index of each padded token among the group's real ones
    real: torch.Tensor | None  # [tokens] int64, index of each real token among the padded ones

    @property
    def span(self) -> slice:
        """Their tokens in the packed sequence."""
        return slice(self.start, self.start + sum(self.lengths))

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """The group's part of a layer's queries, keys or values: ``[N, H, d]`` -> ``[n, H, R, d]``.

        Rows are padded with their last token, which no token sees.
        """
        tokens = states[self.span]  # [tokens, H, d]
        if self.padded is not None and self.real is not None:
            tokens = _Pad.apply(tokens, self.padded, self.real)  # [n R, H, d]
        return tokens.unflatten(0, (len(self.lengths), self.layout.width)).transpose(1, 2)

    def tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """The inverse for the attention output: ``[n, H, R, d]`` -> ``[tokens, H, d]``."""
        tokens = rows.transpose(1, 2).flatten(0, 1)  # [n R, H, d]
        if self.real is None:
            return tokens
        unpadded: torch.Tensor = _Unpad.apply(tokens, self.real)
        return unpadded


class _TrainingAttention(AttentionPass):
    """Attention of rows to the prefix at the beginning of the sequence and to themselves; gradients flow back into both.

    Args:
        shared: Tokens of the prefix.
        lengths: Tokens of each row after it.
        device: Where the decoder is.
    """

    def __init__(self, shared: int, lengths: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self.lengths, self.device = lengths, device
        self.prefix = causal_layout(shared)

    @cached_property
    def groups(self) -> list[_PaddedGroup]:
        """The rows, in runs of similar length."""
        return _padded_groups(self.lengths, self.prefix.width, self.device)

    @cached_property
    def _strands(self) -> Strands:
        return strands_of_texts(self.prefix.width, self.lengths)

    @cached_property
    def _last_strands(self) -> Strands:
        return strands_of_texts(self.prefix.width, self.lengths, last=True)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Compute the attention of the prefix and of all groups, ``[1, N, H, d]``."""
        q, k, v = (states[0].transpose(0, 1) for states in (call.query, call.key, call.value))  # [N, H, d], [N, KV, d] twice
        return self._attended(call, q, k, v)[None]

    def of_tokens(self, module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
        """Attention of all tokens of a layer of :class:`~embedding_adaptation.embedder.lean_layers.LeanLayers`, ``[N, H, d]``."""
        return self._attended(packed_call(module, q, k, v, window), q, k, v)

    def of_last(self, module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
        """Attention of every row's last token, ``[n, H, d]``; likewise."""
        call = packed_call(module, q, k, v, window)
        if kernel := kernel_of(call):
            return self._last_strands.attend(kernel, call, q, k, v)
        before = [states[: self.prefix.width].transpose(0, 1) for states in (k, v)]  # [KV, P, d] twice
        outputs, first = [], 0
        for group in self.groups:
            count, heads = len(group.lengths), k.shape[1]
            keys, values = group.rows(k), group.rows(v)  # [n, KV, R, d]
            if self.prefix.width:
                keys, values = behind(before[0], keys), behind(before[1], values)  # [n, KV, P + R, d]
            mask = self._last_mask(group, call)[:, None].expand(-1, heads, -1).reshape(count * heads, 1, -1)  # [n KV, 1, P + R]
            own = q[first : first + count, :, None]  # [n, H, 1, d]
            outputs.append(plain_attention(own, keys, values, mask, scale=call.scale, softcap=None)[:, :, 0])  # [n, H, d]
            first += count
        return torch.cat(outputs)

    def _last_mask(self, group: _PaddedGroup, call: AttentionCall) -> torch.Tensor:
        """The additive mask of a group's last tokens, ``[n, P + R]``."""
        ends = group.layout.shared + torch.tensor(group.lengths) - 1  # [n]
        return additive(visible(ends, group.layout.positions, call.window), call.query)

    def _attended(self, call: AttentionCall, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention of the prefix and of all groups: ``[N, H, d]``, ``[N, KV, d]`` twice -> ``[N, H, d]``."""
        if kernel := kernel_of(call):
            return self._strands.attend(kernel, call, q, k, v)
        before = [states[: self.prefix.width].transpose(0, 1) for states in (q, k, v)]  # [H, P, d], [KV, P, d] twice
        outputs = []
        with torch.autocast(call.query.device.type, enabled=False):
            if self.prefix.width:
                attended = self.attend_rows(call, self.prefix, *(states[None] for states in before))  # [1, H, P, d]
                outputs.append(attended[0].transpose(0, 1))
            for group in self.groups:
                keys, values = group.rows(k), group.rows(v)  # [n, KV, R, d]
                if self.prefix.width:
                    keys, values = behind(before[1], keys), behind(before[2], values)  # [n, KV, P + R, d]
                outputs.append(group.tokens(self.attend_rows(call, group.layout, group.rows(q), keys, values)))
        return torch.cat(outputs)


class GradientPass(Protocol):
    """The interface of a decoder for training: pooled vectors of prompted texts, with gradients.

    Attributes:
        decoder: The decoder, inside its adapter.
        frame: The template's token ids.
        first_layer: The lowest layer that gradients reach, counted from 0.
    """

    decoder: PreTrainedModel
    frame: Frame
    first_layer: int

    def row(self, text_ids: Sequence[int]) -> tuple[int, ...]:
        """The ids computed for one text, truncated to the room that the template leaves."""
        ...

    def training(self) -> AbstractContextManager[None]:
        """The context in which :meth:`embed` is called and its gradients are computed."""
        ...

    def embed(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Pooled vectors of rows from :meth:`row`, ``[n, D]`` in the decoder's dtype, not normalised."""
        ...

    def check(self, rows: Sequence[Sequence[int]]) -> None:
        """Check on a few rows that the vectors are this model's own.

        Raises:
            UnsupportedDecoderError: If they are not.
        """
        ...


class TrainingPass:
    """The fast pass: packed rows, starting above the layers that never change.

    Args:
        backbone: A decoder without vocabulary head, or a PEFT model around one.
        frame: The template's token ids.
        pooling: How token vectors become one vector.
        first_layer: Layers below this one (counted from 0) do not change in training; their output comes from :attr:`lower_source`.

    Attributes:
        lower_source: Returns the output of the layers below for rows: :meth:`lower_states`, or a cache in front of it.

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
        self._lean = LeanLayers(self.decoder, first_layer)

    def row(self, text_ids: Sequence[int]) -> tuple[int, ...]:
        """The ids computed for one text, truncated to the available room: everything but the template's shared beginning."""
        return tuple(self.tree.row(text_ids))

    def training(self) -> AbstractContextManager[None]:
        """Give the decoder the attention of packed rows.

        Raises:
            UnsupportedDecoderError: If the model's attention cannot be replaced.
        """
        return self.packed.packing()

    def lower_states(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """The output of the layers below :attr:`first_layer` for rows, without gradients.

        Args:
            rows: Rows from :meth:`row`.

        Returns:
            For each row, ``[R, D]`` in the decoder's dtype.
        """
        wanted = Wanted(hidden=frozenset({self.first_layer}))
        with self.packed.packing(), torch.autocast(self.decoder.device.type, enabled=False):
            prefix = self._read_lower_prefix()
            order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
            groups = row_groups([len(rows[index]) for index in order], self.tree.layout_of_row)
            result = self.packed.run([rows[index] for index in order], groups, prefix, wanted)
        states: list[torch.Tensor | None] = [None] * len(rows)
        at = 0
        for index in order:
            width = len(rows[index])
            states[index] = result.hidden[self.first_layer][at : at + width].clone()  # [R, D], outside of inference mode
            at += width
        return [state for state in states if state is not None]

    def embed(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Pooled vectors of rows, with gradients if they are enabled; call within :meth:`training`.

        Args:
            rows: Rows from :meth:`row`. Adjacent rows of the same length are fastest.

        Returns:
            ``[n, D]`` in the decoder's dtype, not normalised.

        Raises:
            UnsupportedDecoderError: If a layer did not use the replaced attention, so that rows would have seen one another.
        """
        lower = self.lower_source([tuple(row) for row in rows]) if self.first_layer else None
        device, shared = self.decoder.device, len(self.tree.shared)
        lengths = [len(row) for row in rows]
        input_ids = torch.tensor([*self.tree.shared, *(token for row in rows for token in row)], device=device)  # [N]
        positions = torch.cat([torch.arange(shared), *(shared + torch.arange(length) for length in lengths)]).to(device)  # [N]
        attention = _TrainingAttention(shared, lengths, device)
        if self._lean.fits:
            return self._embed_lean(self._input_states(input_ids, lower), positions, attention, lengths)
        with (
            self._starting_above(lower),
            attention.running(self.decoder, range(self.first_layer, len(self.packed.layers)), (1, len(input_ids))),
            _matching_formats(self.decoder),
        ):
            output = self.decoder(input_ids=input_ids[None], position_ids=positions[None], use_cache=False)
        with _matching_formats(self.decoder):
            return self._pool(output.last_hidden_state[0], lengths)  # [n, D]

    def _input_states(self, input_ids: torch.Tensor, lower: Sequence[torch.Tensor] | None) -> torch.Tensor:
        """What the first trained layer is given, ``[N, D]``."""
        if lower is None:
            embedded: torch.Tensor = self.decoder.get_input_embeddings()(input_ids)
            return embedded
        with self.packed.packing():
            prefix = self._read_lower_prefix()
        before = [prefix.hidden[self.first_layer].clone()] if self.tree.shared else []
        return torch.cat([*before, *lower])

    def _embed_lean(
        self, states: torch.Tensor, positions: torch.Tensor, attention: _TrainingAttention, lengths: Sequence[int]
    ) -> torch.Tensor:
        """:meth:`embed` with fewer operations, and for the last token only what it depends on."""
        with torch.autocast(states.device.type, enabled=False):
            if self.pooling in {"last", "eos"}:
                return self._lean.run(states, positions, attention, self._ends(lengths).to(states.device))  # [n, D]
            return self._pool(self._lean.run(states, positions, attention, None), lengths)  # [n, D]

    def _ends(self, lengths: Sequence[int]) -> torch.Tensor:
        """Places of the rows' last tokens in the packed sequence, ``[n]``."""
        return len(self.tree.shared) + torch.tensor(lengths).cumsum(0) - 1

    def _pool(self, hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        shared = len(self.tree.shared)
        ends = self._ends(lengths) + 1  # [n]
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
        """The output of the lower layers for the words before all texts, computed once."""
        if self._lower_prefix is None:
            shared = self.tree.shared
            self._lower_prefix = self.packed.read_prefix(shared, Wanted(hidden=frozenset({self.first_layer})))
        return self._lower_prefix

    def check(self, rows: Sequence[Sequence[int]]) -> None:
        """Check on a few rows that packed rows give this model's own vectors.

        Raises:
            UnsupportedDecoderError: If they do not.
        """
        longest = len(self.frame.prefix) + self.frame.room + len(self.frame.suffix)
        with evaluating(self.decoder):
            with trying_out(type(self.decoder).__name__):
                check_masks(self.decoder, longest)
                with self.training():
                    packed = self.embed(rows).float()  # [n, D]
            plain = PaddedPass(self.decoder, self.frame, self.pooling).embed(rows).float()  # [n, D]
        if (least := _least_cosine(packed, plain)) < _LEAST_COSINE[self.decoder.dtype == torch.float32]:
            msg = f"{type(self.decoder).__name__} gives different vectors in packed rows (cosine {least:.4f})"
            raise UnsupportedDecoderError(msg)

    @contextmanager
    def _starting_above(self, lower: Sequence[torch.Tensor] | None) -> Iterator[None]:
        """Skip the layers below the first trained one, and give that one their stored output."""
        if lower is None:
            yield
            return
        states = self._input_states(torch.empty(0), lower)[None]  # [1, N, D]

        def replace_input(
            _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})

        with ExitStack() as stack:
            for layer in self.packed.layers[: self.first_layer]:
                stack.enter_context(_passing_on(layer))
            handle = self.packed.layers[self.first_layer].register_forward_pre_hook(replace_input, with_kwargs=True)
            stack.callback(handle.remove)
            yield


@contextmanager
def _passing_on(layer: torch.nn.Module) -> Iterator[None]:
    """Make a layer return its input."""

    def forward(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


class PaddedPass:
    """The slow pass, for decoders whose attention cannot be replaced: padded batches through the whole decoder, as in transformers.

    Args:
        backbone: A decoder without vocabulary head, or a PEFT model around one.
        frame: The template's token ids.
        pooling: How token vectors become one vector.
    """

    first_layer = 0

    def __init__(self, backbone: PreTrainedModel, frame: Frame, pooling: PoolingName) -> None:
        self.decoder = decoder_of(backbone)
        self.tree = PromptTree((frame,))
        self.frame = frame
        self.pooling = pooling

    def row(self, text_ids: Sequence[int]) -> tuple[int, ...]:
        """The ids of one text after the template's shared beginning, truncated to the available room."""
        return tuple(self.tree.row(text_ids))

    def training(self) -> AbstractContextManager[None]:
        """A context without effect."""
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
            msg = f"{type(self.decoder).__name__} gives different vectors in padded batches (cosine {least:.4f}), so it cannot be trained"
            raise UnsupportedDecoderError(msg)


@contextmanager
def evaluating(decoder: torch.nn.Module) -> Iterator[None]:
    """Disable dropout and gradients."""
    was_training = decoder.training
    decoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        decoder.train(was_training)


def _matching_formats(decoder: PreTrainedModel) -> AbstractContextManager[Any]:
    """Multiply an adapter's float32 weights in the decoder's own dtype, which is twice as fast on a CPU."""
    return torch.autocast(decoder.device.type, dtype=decoder.dtype, enabled=decoder.dtype != torch.float32)


def _least_cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """The lowest cosine similarity of corresponding rows ``[n, D]``; below every bound if one is NaN."""
    return float(torch.nn.functional.cosine_similarity(one, other).min().nan_to_num(nan=-2.0))


def _padded_groups(lengths: Sequence[int], shared: int, device: torch.device) -> list[_PaddedGroup]:
    """Group consecutive rows of similar length, which follow a prefix of ``shared`` tokens."""
    layout_of = cache(lambda width: causal_layout(width, shared))
    groups: list[_PaddedGroup] = []
    start, at = shared, 0
    while at < len(lengths):
        low = high = lengths[at]
        end = at + 1
        while end < len(lengths):
            new_low, new_high = min(low, lengths[end]), max(high, lengths[end])
            if new_high > new_low * (1 + _PADDED_SHARE) + 2:
                break
            low, high, end = new_low, new_high, end + 1
        members = list(lengths[at:end])
        padded = real = None
        if low != high:
            starts = torch.tensor([0, *members[:-1]]).cumsum(0)  # [n]
            within = torch.arange(high)[None, :]  # [1, R]
            sizes = torch.tensor(members)[:, None]  # [n, 1]
            padded = (starts[:, None] + within.minimum(sizes - 1)).flatten().to(device)  # [n R]
            real = (within < sizes).flatten().nonzero()[:, 0].to(device)  # [tokens]
        groups.append(_PaddedGroup(start, members, layout_of(high), padded, real))
        start, at = groups[-1].span.stop, end
    return groups


class _Pad(torch.autograd.Function):
    """``[tokens, H, d]`` -> ``[n R, H, d]``; its gradient is a plain copy, whereas torch's own would add row by row."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, padded: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(real)
        return states.index_select(0, padded)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None  # padding has no gradient, because no token sees it


class _Unpad(torch.autograd.Function):
    """``[n R, H, d]`` -> ``[tokens, H, d]``; its gradient is a plain copy."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(real)
        ctx.rows = states.shape[0]
        return states.index_select(0, real)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = gradient.new_zeros(ctx.rows, *gradient.shape[1:])
        return whole.index_copy_(0, ctx.saved_tensors[0], gradient), None
