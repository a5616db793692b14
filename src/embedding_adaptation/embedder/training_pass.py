"""A pass of a decoder over packed rows with gradients, beginning above the layers that never change.

What :mod:`~embedding_adaptation.embedder.decoder_pass` is for inference, this is for training: the tokens of all texts of a chunk go
through the linear layers as one sequence without padding; the template's words before the text are computed once for all of them, and
gradients flow back into them; layers below the lowest adapted one are left out, and their output is put in from outside. All of it gives
the gradients of the plain pass over padded prompts.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch

from embedding_adaptation.embedder.attention_swap import AttentionCall, AttentionPass, UnsupportedDecoderError, behind, trying_out
from embedding_adaptation.embedder.decoder_pass import PackedDecoder, Prefix, Wanted, decoder_of, row_groups
from embedding_adaptation.embedder.pooling import POOLINGS
from embedding_adaptation.embedder.probe import check_masks
from embedding_adaptation.embedder.prompt_tree import PromptTree, causal_layout
from embedding_adaptation.embedder.template import TokenizedPrompt, pad_prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.pooling import PoolingName
    from embedding_adaptation.embedder.prompt_tree import RowLayout
    from embedding_adaptation.embedder.template import Frame

# Rows that differ by no more than this share in length are padded to one width, in attention only.
_PADDED_SHARE = 0.15
# Of packed and padded vectors, by whether the decoder computes in float32.
_LEAST_COSINE = {True: 0.99999, False: 0.99}


@dataclass
class _PaddedGroup:
    """Rows computed in one attention call, padded to the longest."""

    start: int
    lengths: list[int]
    layout: RowLayout
    padded: torch.Tensor | None  # [n R] int64, place of each padded token among the group's real ones
    real: torch.Tensor | None  # [tokens] int64, place of each real token among the padded ones

    @property
    def span(self) -> slice:
        """Their tokens in the packed sequence."""
        return slice(self.start, self.start + sum(self.lengths))

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """The group's part of a layer's queries, keys or values: ``[N, H, d]`` -> ``[n, H, R, d]``.

        Behind a row's end its last token stands again, and nobody sees it.
        """
        tokens = states[self.span]  # [tokens, H, d]
        if self.padded is not None and self.real is not None:
            tokens = _Pad.apply(tokens, self.padded, self.real)  # [n R, H, d]
        return tokens.unflatten(0, (len(self.lengths), self.layout.width)).transpose(1, 2)

    def tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """The way back for attention's output: ``[n, H, R, d]`` -> ``[tokens, H, d]``."""
        tokens = rows.transpose(1, 2).flatten(0, 1)  # [n R, H, d]
        if self.real is None:
            return tokens
        unpadded: torch.Tensor = _Unpad.apply(tokens, self.real)
        return unpadded


class _TrainingAttention(AttentionPass):
    """Attention of rows to a prefix, with which the sequence begins, and to themselves; gradients flow back into both.

    Args:
        shared: Tokens of the prefix.
        groups: The rows behind it.
    """

    def __init__(self, shared: int, groups: Sequence[_PaddedGroup]) -> None:
        super().__init__()
        self.groups = groups
        self.prefix = causal_layout(shared)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attention of the prefix and of all groups, ``[1, N, H, d]``."""
        q, k, v = (states[0].transpose(0, 1) for states in (call.query, call.key, call.value))  # [N, H, d], [N, KV, d] twice
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
        return torch.cat(outputs)[None]


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

    def training(self) -> AbstractContextManager[None]:
        """Within, the decoder's attention is that of packed rows.

        Raises:
            UnsupportedDecoderError: If the model's attention cannot be replaced.
        """
        return self.packed.packing()

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
        attention = _TrainingAttention(shared, _padded_groups(lengths, shared, device))
        with (
            self._starting_above(lower),
            attention.running(self.decoder, range(self.first_layer, len(self.packed.layers)), (1, len(input_ids))),
            _matching_formats(self.decoder),
        ):
            output = self.decoder(input_ids=input_ids[None], position_ids=positions[None], use_cache=False)
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
        self.decoder = decoder_of(backbone)
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
            msg = f"{type(self.decoder).__name__} gives different vectors in padded batches (cosine {least:.4f}), so it cannot be trained"
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


def _padded_groups(lengths: Sequence[int], shared: int, device: torch.device) -> list[_PaddedGroup]:
    """Consecutive rows of about the same length, behind a prefix of ``shared`` tokens."""
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
        chosen = list(lengths[at:end])
        padded = real = None
        if low != high:
            starts = torch.tensor([0, *chosen[:-1]]).cumsum(0)  # [n]
            within = torch.arange(high)[None, :]  # [1, R]
            sizes = torch.tensor(chosen)[:, None]  # [n, 1]
            padded = (starts[:, None] + within.minimum(sizes - 1)).flatten().to(device)  # [n R]
            real = (within < sizes).flatten().nonzero()[:, 0].to(device)  # [tokens]
        groups.append(_PaddedGroup(start, chosen, layout_of(high), padded, real))
        start, at = groups[-1].span.stop, end
    return groups


class _Pad(torch.autograd.Function):
    """``[tokens, H, d]`` -> ``[n R, H, d]``; its gradient is a plain copy, where torch's own would add up row by row."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, padded: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(real)
        return states.index_select(0, padded)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None  # padding has no gradient: nobody saw it


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
