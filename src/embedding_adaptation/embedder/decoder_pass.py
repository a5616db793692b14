"""One pass of a decoder over packed rows: no padding, no vocabulary logits, and no layers or hidden states that are not needed.

All tokens of a batch go through the linear layers as one long sequence. Only attention needs to know where a text begins and ends: its
replacement (:mod:`~embedding_adaptation.embedder.attention_swap`, which explains the terms) divides the sequence into groups of rows and
lets each row see what its :class:`~embedding_adaptation.embedder.prompt_tree.RowLayout` allows.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from embedding_adaptation.embedder.attention_swap import (
    AttentionCall,
    AttentionPass,
    UnsupportedDecoderError,
    attention_weights,
    behind,
    plain_attention,
    replaced_attention,
)
from embedding_adaptation.embedder.lean_layers import LeanLayers
from embedding_adaptation.embedder.prompt_tree import causal_layout
from embedding_adaptation.embedder.varlen import Strands, kernel_of, last_strands_of_rows, strands_of_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.prompt_tree import RowLayout

# Keys and values of the prefix, each ``[KV, P, d]``, by layer counted from 0.
KeysValues = dict[int, tuple[torch.Tensor, torch.Tensor]]

# Maximum number of scores computed at once on a CPU, so that they stay in the cache.
_SCORES_AT_ONCE = 1 << 20


@dataclass
class RowGroup:
    """Consecutive rows of equal width in a packed sequence.

    Attributes:
        start: Index of the first token.
        first: Index of the first row.
        count: Number of rows.
        layout: What their tokens see.
    """

    start: int
    first: int
    count: int
    layout: RowLayout

    @property
    def span(self) -> slice:
        """Their tokens in the packed sequence."""
        return slice(self.start, self.start + self.count * self.layout.width)

    @property
    def members(self) -> slice:
        """Their indices among all rows."""
        return slice(self.first, self.first + self.count)

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """The group's part of a layer's queries, keys or values: ``[1, H, N, d]`` -> ``[n, H, R, d]``."""
        return states[0, :, self.span].unflatten(1, (self.count, self.layout.width)).transpose(0, 1)


def row_groups(widths: Sequence[int], layout_of: Callable[[int], RowLayout]) -> list[RowGroup]:
    """Group consecutive rows of equal width.

    Args:
        widths: Number of tokens in each row.
        layout_of: Returns the layout of rows of a given width.
    """
    groups: list[RowGroup] = []
    start = first = 0
    for width, alike in itertools.groupby(widths):
        groups.append(RowGroup(start, first, len(list(alike)), layout_of(width)))
        start, first = groups[-1].span.stop, groups[-1].members.stop
    return groups


@dataclass
class Prefix:
    """The results for the tokens that precede all rows.

    Attributes:
        keys_values: Keys and values by layer.
        hidden: Hidden states ``[P, D]`` by requested layer.
    """

    keys_values: KeysValues = field(default_factory=dict)
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass
class PassResult:
    """The results that a pass was asked for.

    Attributes:
        hidden: Hidden states ``[N, D]`` by requested layer.
        attended: Attention outputs ``[N, D]`` by requested layer.
        last_rows: Attention of every template's last token, ``[n, H, templates, P + R]`` float32, by requested layer and group.
    """

    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    attended: dict[int, torch.Tensor] = field(default_factory=dict)
    last_rows: dict[int, list[torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a pass is to return; layers are counted from 1, hidden state 0 is the input embeddings.

    Attributes:
        hidden: Layers whose hidden states are wanted.
        attended: Layers whose attention outputs are wanted.
        last_rows: Layers whose attention of the templates' last tokens is wanted.
        only_last: Whether only the templates' last tokens will be looked at in the highest layer; the others may then be zero there.
    """

    hidden: frozenset[int]
    attended: frozenset[int] = frozenset()
    last_rows: frozenset[int] = frozenset()
    only_last: bool = False

    @property
    def lowest(self) -> int:
        """The hidden state from which all that is wanted can be computed."""
        return min((*self.hidden, *(layer - 1 for layer in (*self.attended, *self.last_rows))))

    @property
    def highest(self) -> int:
        """The highest layer that must be computed."""
        return max((*self.hidden, *self.attended, *self.last_rows))


class RowAttention(AttentionPass):
    """Attention of rows to a prefix and to themselves, without gradients.

    Args:
        groups: The rows. Tokens after the last group are padding and get zeros.
        prefix: Keys and values of the prefix; empty if there is none.
        last_rows: Layers, counted from 1, for which the attention of the templates' last tokens is kept in :attr:`last_rows`.
        keep: Called with the layer (counted from 0), the group, and its keys and values ``[n, KV, R, d]``.

    Attributes:
        last_rows: ``[n, H, templates, P + R]`` float32 for each of these layers and each group.
    """

    def __init__(
        self,
        groups: Sequence[RowGroup],
        prefix: KeysValues,
        last_rows: Collection[int] = (),
        keep: Callable[[int, RowGroup, torch.Tensor, torch.Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.prefix, self.keep = groups, prefix, keep
        self.last_rows: dict[int, list[torch.Tensor]] = {layer: [] for layer in last_rows}

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Compute the attention of all groups, ``[1, N, H, d]``."""
        output = call.query.new_empty(call.query.shape[2], call.query.shape[1], call.value.shape[3])  # [N, H, d]
        kernel = None if self.keep or call.layer + 1 in self.last_rows else kernel_of(call)
        if kernel:
            end = self.groups[-1].span.stop
            output[:end] = self._strands.attend(kernel, call, call.query[0].transpose(0, 1)[:end], *self._seen(call))
            output[end:] = 0
            return output[None]
        output[self.groups[-1].span.stop :] = 0
        with torch.autocast(call.query.device.type, enabled=False):
            for group in self.groups:
                k, v = group.rows(call.key), group.rows(call.value)
                if self.keep:
                    self.keep(call.layer, group, k, v)
                attended = output[group.span].unflatten(0, (group.count, group.layout.width)).transpose(1, 2)  # [n, H, R, d]
                self._attend_group(call, group.layout, (group.rows(call.query), k, v), attended)
        return output[None]

    def of_tokens(self, module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
        """Attention of a layer of :class:`~embedding_adaptation.embedder.lean_layers.LeanLayers`, ``[N, H, d]``."""
        return self.answer(packed_call(module, q, k, v, window))[0]

    def of_last(self, module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
        """Likewise, but only that of the templates' last tokens, row by row: ``[E, H, d]`` for queries of these tokens."""
        call = packed_call(module, q, k, v, window)
        before, weights = self.prefix.get(call.layer), self.last_rows.get(call.layer + 1)
        self.calls[call.layer] += 1
        if weights is None and (kernel := kernel_of(call)):
            return self._last_strands.attend(kernel, call, q, *self._seen(call))
        outputs, first = [], 0
        for group in self.groups:
            last = list(group.layout.last)
            end = first + group.count * len(last)
            own = q[first:end].unflatten(0, (group.count, len(last))).transpose(1, 2)  # [n, H, templates, d]
            keys, values = group.rows(call.key), group.rows(call.value)
            if before:
                keys, values = behind(before[0], keys), behind(before[1], values)  # [n, KV, P + R, d]
            mask = self.mask(group.layout, call)[last]  # [templates, P + R]
            attended = plain_attention(own, keys, values, mask.repeat(call.repeats, 1), scale=call.scale, softcap=None)
            outputs.append(attended.transpose(1, 2).flatten(0, 1))  # [n templates, H, d]
            if weights is not None:
                weights.append(attention_weights(own, keys, mask, scale=call.scale, softcap=None))
            first = end
        return torch.cat(outputs)

    def last_places(self) -> torch.Tensor:
        """Places of the templates' last tokens in the packed sequence, row by row, ``[E]``."""
        starts = (group.start + torch.arange(group.count)[:, None] * group.layout.width for group in self.groups)
        return torch.cat([(start + torch.tensor(group.layout.last)).flatten() for start, group in zip(starts, self.groups, strict=True)])

    def _seen(self, call: AttentionCall) -> list[torch.Tensor]:
        """Keys and values of the prefix and of all tokens behind it, ``[P + N, KV, d]`` each."""
        own = [states[0].transpose(0, 1) for states in (call.key, call.value)]
        before = self.prefix.get(call.layer)
        return own if before is None else [torch.cat([first.transpose(0, 1), states]) for first, states in zip(before, own, strict=True)]

    @cached_property
    def _strands(self) -> Strands:
        return strands_of_rows((group.start, group.count, group.layout) for group in self.groups)

    @cached_property
    def _last_strands(self) -> Strands:
        return last_strands_of_rows((group.start, group.count, group.layout) for group in self.groups)

    def _attend_group(
        self, call: AttentionCall, layout: RowLayout, rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor], attended: torch.Tensor
    ) -> None:
        """Write the attention of one group's queries, keys and values into ``attended``."""
        before = self.prefix.get(call.layer)
        wanted = self.last_rows.get(call.layer + 1)
        scores = call.query.shape[1] * layout.width * (layout.shared + layout.width)  # of one row
        step = len(attended) if self.fuses(call, layout) else max(1, _SCORES_AT_ONCE // scores)
        weights = []
        for q, k, v, target in zip(*(states.split(step) for states in (*rows, attended)), strict=True):
            keys, values = (behind(before[0], k), behind(before[1], v)) if before else (k, v)  # [m, KV, P + R, d]
            target.copy_(self.attend_rows(call, layout, q, keys, values))
            if wanted is not None:
                last = list(layout.last)
                mask = self.mask(layout, call)[last]  # [templates, P + R]
                weights.append(attention_weights(q[:, :, last], keys, mask, scale=call.scale, softcap=call.softcap))
        if wanted is not None:
            wanted.append(torch.cat(weights))


def prefix_attention(width: int, keys_values: KeysValues) -> RowAttention:
    """Attention of a pass over a prefix of ``width`` tokens; its keys and values are stored in ``keys_values``."""

    def keep(layer: int, _: RowGroup, keys: torch.Tensor, values: torch.Tensor) -> None:
        keys_values[layer] = (keys[0].contiguous(), values[0].contiguous())

    return RowAttention([RowGroup(0, 0, 1, causal_layout(width))], {}, keep=keep)


class _Enough(BaseException):
    pass


class PackedDecoder:
    """A decoder that computes packed rows.

    Args:
        backbone: A decoder without vocabulary head, or a PEFT model around one.

    Raises:
        UnsupportedDecoderError: If the decoder's layers cannot be found.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        self.decoder = decoder_of(backbone)
        self.layers = decoder_layers(self.decoder)
        self.attentions = [_attention_module(layer) for layer in self.layers]
        # An adapter's weights are float32; autocast multiplies them in the dtype of the base, which is twice as fast on a CPU.
        self.mixed = len({parameter.dtype for parameter in self.decoder.parameters()}) > 1
        self.lean = LeanLayers(self.decoder, training=False)

    def packing(self) -> AbstractContextManager[None]:
        """Give the decoder the attention of packed rows.

        Raises:
            UnsupportedDecoderError: If the model's attention cannot be replaced.
        """
        return replaced_attention(self.decoder)

    def read_prefix(self, ids: Sequence[int], wanted: Wanted) -> Prefix:
        """Compute the tokens that precede all rows; call within :meth:`packing`.

        Args:
            ids: Their ids.
            wanted: What will be requested of the rows.
        """
        prefix = Prefix()
        if ids:
            attention = prefix_attention(len(ids), prefix.keys_values)
            result = self._run([ids], attention, Wanted(wanted.hidden | {wanted.highest}))
            prefix.hidden = {layer: result.hidden[layer] for layer in wanted.hidden}
        return prefix

    def run(
        self,
        rows: Sequence[Sequence[int]],
        groups: Sequence[RowGroup],
        prefix: Prefix,
        wanted: Wanted,
        *,
        lower: tuple[int, torch.Tensor] | None = None,
    ) -> PassResult:
        """Compute rows; call within :meth:`packing`.

        Args:
            rows: Ids of each row, in the order of the groups.
            groups: The groups of rows.
            prefix: The result of :meth:`read_prefix`.
            wanted: What to return.
            lower: A hidden state no higher than :attr:`Wanted.lowest` and its values ``[N, D]``, above which to start; only if
                :attr:`lean` fits.

        Raises:
            UnsupportedDecoderError: If a layer did not use the replaced attention, so that rows would have seen one another.
        """
        return self._run(rows, RowAttention(groups, prefix.keys_values, wanted.last_rows), wanted, lower)

    def _run(
        self,
        rows: Sequence[Sequence[int]],
        attention: RowAttention,
        wanted: Wanted,
        lower: tuple[int, torch.Tensor] | None = None,
    ) -> PassResult:
        if self.lean.fits:
            return self._run_lean(rows, attention, wanted, lower)
        device, dtype = self.decoder.device, self.decoder.dtype
        input_ids = torch.tensor([token for row in rows for token in row], device=device)  # [N]
        positions = torch.cat([g.layout.positions[g.layout.shared :].repeat(g.count) for g in attention.groups]).to(device)  # [N]
        result = PassResult(last_rows=attention.last_rows)
        with (
            attention.running(self.decoder, range(wanted.highest), (1, len(input_ids))),
            suppress(_Enough),
            torch.inference_mode(),
            self._capturing(wanted, result),
            torch.autocast(device.type, dtype=dtype) if self.mixed and dtype != torch.float32 else nullcontext(),
        ):
            output = self.decoder(input_ids=input_ids[None], position_ids=positions[None], use_cache=False)
            if len(self.layers) in wanted.hidden:
                result.hidden[len(self.layers)] = output.last_hidden_state[0]
        return result

    def _run_lean(
        self, rows: Sequence[Sequence[int]], attention: RowAttention, wanted: Wanted, lower: tuple[int, torch.Tensor] | None
    ) -> PassResult:
        """:meth:`_run` with fewer operations, and in the highest layer only for the tokens that are wanted."""
        device, top = self.decoder.device, wanted.highest
        positions = torch.cat([g.layout.positions[g.layout.shared :].repeat(g.count) for g in attention.groups]).to(device)  # [N]
        result = PassResult(last_rows=attention.last_rows)
        first = 0 if lower is None else lower[0]
        shape = (1, len(positions))
        with (
            torch.inference_mode(),
            torch.autocast(device.type, enabled=False),
            attention.running(self.decoder, range(first, top), shape),
        ):
            if lower is None:
                states = self.decoder.get_input_embeddings()(torch.tensor([token for row in rows for token in row], device=device))
            else:
                states = lower[1]  # [N, D]
            rotary = self.lean.rotary(states, positions)
            last = attention.last_places().to(device) if wanted.only_last else None
            for number in range(first, top + 1):
                if number in wanted.hidden and (number < top or last is None or number == first):
                    result.hidden[number] = self.lean.final(states) if number == len(self.layers) else states
                if number == top:
                    break
                layer: Any = self.layers[number]
                ends = last if number + 1 == top else None
                _, residual, mixed = self.lean.mixed(layer, states, rotary, attention, ends)
                if number + 1 in wanted.attended:
                    output = self.lean.product(layer, mixed)
                    result.attended[number + 1] = _spread(output, ends, len(positions))
                    residual = output + residual
                elif number + 1 < top or top in wanted.hidden:
                    residual = self.lean.added(layer, mixed, residual)
                if number + 1 < top or top in wanted.hidden:
                    states = self.lean.fed(layer, residual)
            if last is not None and top in wanted.hidden and top > first:
                states = self.lean.final(states) if top == len(self.layers) else states
                result.hidden[top] = _spread(states, last, len(positions))
        return result

    @contextmanager
    def _capturing(self, wanted: Wanted, result: PassResult) -> Iterator[None]:
        with ExitStack() as stack:

            def keep(store: dict[int, torch.Tensor], layer: int, value: Any) -> None:
                store[layer] = (value[0] if isinstance(value, tuple) else value)[0]

            if 0 in wanted.hidden:
                stack.callback(
                    self.layers[0]
                    .register_forward_pre_hook(
                        lambda _module, args, kwargs: keep(result.hidden, 0, args[0] if args else kwargs["hidden_states"]),
                        with_kwargs=True,
                    )
                    .remove
                )
            for layer, module in enumerate(self.attentions, start=1):
                if layer in wanted.attended:
                    handle = module.register_forward_hook(lambda _m, _a, output, n=layer: keep(result.attended, n, output))
                    stack.callback(handle.remove)
            for layer, module in enumerate(self.layers, start=1):
                inside = layer < len(self.layers)  # the last hidden state is the model's output, after its final norm
                if inside and layer in wanted.hidden:
                    stack.callback(module.register_forward_hook(lambda _m, _a, output, n=layer: keep(result.hidden, n, output)).remove)
            top = wanted.highest
            if 0 < top < len(self.layers) or (top == len(self.layers) and top not in wanted.hidden):
                stack.callback(self.layers[top - 1].register_forward_hook(_stop).remove)
            elif top == 0:
                stack.callback(self.layers[0].register_forward_pre_hook(_stop).remove)
            yield


def _spread(states: torch.Tensor, places: torch.Tensor | None, count: int) -> torch.Tensor:
    """States ``[n, D]`` at their places in a sequence of ``count`` tokens that are otherwise zero; without places the states themselves."""
    return states if places is None else states.new_zeros(count, states.shape[1]).index_copy_(0, places, states)


def packed_call(module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> AttentionCall:
    """A call as transformers' layers make it, of states ``[N, H, d]`` and ``[N, KV, d]``."""
    query, key, value = (part.transpose(0, 1)[None] for part in (q, k, v))  # [1, H, N, d], [1, KV, N, d] twice
    return AttentionCall(module, query, key, value, None, {"scaling": module.scaling, "sliding_window": window})


def _stop(*_: Any) -> None:
    raise _Enough


def decoder_of(backbone: PreTrainedModel) -> PreTrainedModel:
    """The decoder inside a PEFT model, or the decoder itself."""
    inner = getattr(backbone, "get_base_model", None)
    return inner() if inner else backbone


def layers_name(decoder: PreTrainedModel) -> str:
    """The name of the module list with a decoder's layers: ``layers``, ``h`` or, nested, ``decoder.layers``.

    Raises:
        UnsupportedDecoderError: If they cannot be found.
    """
    count = decoder.config.num_hidden_layers
    for name, module in decoder.named_modules():  # the outermost first
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name
    msg = f"{type(decoder).__name__} has no list of {count} decoder layers"
    raise UnsupportedDecoderError(msg)


def decoder_layers(decoder: PreTrainedModel) -> list[torch.nn.Module]:
    """A decoder's layers, lowest first.

    Raises:
        UnsupportedDecoderError: If they cannot be found.
    """
    return list(decoder.get_submodule(layers_name(decoder)))


def _attention_module(layer: torch.nn.Module) -> torch.nn.Module:
    for name, module in layer.named_children():
        if ("attn" in name or "attention" in name) and not any(kind in name for kind in ("norm", "ln")):
            return module
    msg = f"{type(layer).__name__} has no attention module"
    raise UnsupportedDecoderError(msg)
