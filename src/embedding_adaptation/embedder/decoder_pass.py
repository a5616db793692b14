"""One pass of a decoder over packed rows: no padding, no vocabulary logits, no layer and no hidden state that nobody asked for.

All tokens of a batch go through the linear layers as one long sequence. Attention alone needs to know where a text begins and ends: the
one put in its place (:mod:`~embedding_adaptation.embedder.attention_swap`, where the words are explained) cuts the sequence into groups of
rows and lets each row see what its :class:`~embedding_adaptation.embedder.prompt_tree.RowLayout` allows.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from embedding_adaptation.embedder.attention_swap import (
    AttentionCall,
    AttentionPass,
    UnsupportedDecoderError,
    attention_weights,
    behind,
    replaced_attention,
)
from embedding_adaptation.embedder.prompt_tree import causal_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.prompt_tree import RowLayout

# For each layer, counted from 0, keys and values of the prefix, ``[KV, P, d]``.
KeysValues = dict[int, tuple[torch.Tensor, torch.Tensor]]

# Scores of this many elements at most are computed at once on a CPU: they stay in the cache.
_SCORES_AT_ONCE = 1 << 20


@dataclass
class RowGroup:
    """Rows of one width that lie one after the other in a packed sequence.

    Attributes:
        start: Number of the first token.
        first: Number of the first row.
        count: How many they are.
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
        """Their numbers among all rows."""
        return slice(self.first, self.first + self.count)

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        """The group's part of a layer's queries, keys or values: ``[1, H, N, d]`` -> ``[n, H, R, d]``."""
        return states[0, :, self.span].unflatten(1, (self.count, self.layout.width)).transpose(0, 1)


def row_groups(widths: Sequence[int], layout_of: Callable[[int], RowLayout]) -> list[RowGroup]:
    """Divide rows into groups of equal width.

    Args:
        widths: Tokens of each row; equal ones side by side make one group.
        layout_of: The layout of rows of a width.
    """
    groups: list[RowGroup] = []
    start = first = 0
    for width, alike in itertools.groupby(widths):
        groups.append(RowGroup(start, first, len(list(alike)), layout_of(width)))
        start, first = groups[-1].span.stop, groups[-1].members.stop
    return groups


@dataclass
class Prefix:
    """What the tokens before all rows left behind.

    Attributes:
        keys_values: For each layer keys and values.
        hidden: For each wanted layer the hidden states ``[P, D]``.
    """

    keys_values: KeysValues = field(default_factory=dict)
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass
class PassResult:
    """What a pass was asked for.

    Attributes:
        hidden: For each wanted layer the hidden states ``[N, D]``.
        attended: For each wanted layer the attention outputs ``[N, D]``.
        last_rows: For each wanted layer and group the attention of every template's last token, ``[n, H, templates, P + R]`` float32.
    """

    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    attended: dict[int, torch.Tensor] = field(default_factory=dict)
    last_rows: dict[int, list[torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a pass is to return; layers are counted from 1, hidden state 0 is the input embeddings."""

    hidden: frozenset[int]
    attended: frozenset[int] = frozenset()
    last_rows: frozenset[int] = frozenset()

    @property
    def highest(self) -> int:
        """The highest layer that has to be computed."""
        return max((*self.hidden, *self.attended, *self.last_rows))


class RowAttention(AttentionPass):
    """Attention of rows to a prefix and to themselves, without gradients.

    Args:
        groups: The rows. Tokens behind the last group only fill up the pass, and get zeros.
        prefix: Keys and values of the prefix; empty where there is none.
        last_rows: Layers, counted from 1, whose attention rows of the templates' last tokens are kept in :attr:`last_rows`.
        keep: Given the layer (counted from 0), the group, and its keys and values ``[n, KV, R, d]``.

    Attributes:
        last_rows: For each of these layers and each group ``[n, H, templates, P + R]`` float32.
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
        """Attention of all groups, ``[1, N, H, d]``."""
        output = call.query.new_empty(call.query.shape[2], call.query.shape[1], call.value.shape[3])  # [N, H, d]
        output[self.groups[-1].span.stop :] = 0
        with torch.autocast(call.query.device.type, enabled=False):
            for group in self.groups:
                k, v = group.rows(call.key), group.rows(call.value)
                if self.keep:
                    self.keep(call.layer, group, k, v)
                attended = output[group.span].unflatten(0, (group.count, group.layout.width)).transpose(1, 2)  # [n, H, R, d]
                self._attend_group(call, group.layout, (group.rows(call.query), k, v), attended)
        return output[None]

    def _attend_group(
        self, call: AttentionCall, layout: RowLayout, rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor], attended: torch.Tensor
    ) -> None:
        """Write the attention of one group's queries, keys and values."""
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
    """Attention of a pass over a prefix of ``width`` tokens, whose keys and values are put into ``keys_values``."""

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
        # An adapter's weights are float32; autocast multiplies them in the base's format, which is twice as fast on a CPU.
        self.mixed = len({parameter.dtype for parameter in self.decoder.parameters()}) > 1

    def packing(self) -> AbstractContextManager[None]:
        """Within, the decoder's attention is that of packed rows.

        Raises:
            UnsupportedDecoderError: If the model's attention cannot be replaced.
        """
        return replaced_attention(self.decoder)

    def read_prefix(self, ids: Sequence[int], wanted: Wanted) -> Prefix:
        """Compute the tokens before all rows; within :meth:`packing`.

        Args:
            ids: Their ids.
            wanted: What the rows will be asked for.
        """
        prefix = Prefix()
        if ids:
            attention = prefix_attention(len(ids), prefix.keys_values)
            result = self._run([ids], attention, Wanted(wanted.hidden | {wanted.highest}))
            prefix.hidden = {layer: result.hidden[layer] for layer in wanted.hidden}
        return prefix

    def run(self, rows: Sequence[Sequence[int]], groups: Sequence[RowGroup], prefix: Prefix, wanted: Wanted) -> PassResult:
        """Compute rows; within :meth:`packing`.

        Args:
            rows: Ids of each row, in the order of the groups.
            groups: Where rows of one width lie.
            prefix: What :meth:`read_prefix` returned.
            wanted: What to return.

        Raises:
            UnsupportedDecoderError: If a layer did not use the attention given to it, so that rows would have seen each other.
        """
        return self._run(rows, RowAttention(groups, prefix.keys_values, wanted.last_rows), wanted)

    def _run(self, rows: Sequence[Sequence[int]], attention: RowAttention, wanted: Wanted) -> PassResult:
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
                inside = layer < len(self.layers)  # the last hidden state is the model's output, behind its final norm
                if inside and layer in wanted.hidden:
                    stack.callback(module.register_forward_hook(lambda _m, _a, output, n=layer: keep(result.hidden, n, output)).remove)
            top = wanted.highest
            if 0 < top < len(self.layers) or (top == len(self.layers) and top not in wanted.hidden):
                stack.callback(self.layers[top - 1].register_forward_hook(_stop).remove)
            elif top == 0:
                stack.callback(self.layers[0].register_forward_pre_hook(_stop).remove)
            yield


def _stop(*_: Any) -> None:
    raise _Enough


def decoder_of(backbone: PreTrainedModel) -> PreTrainedModel:
    """The decoder inside a PEFT model, or the decoder itself."""
    inner = getattr(backbone, "get_base_model", None)
    return inner() if inner else backbone


def layers_name(decoder: PreTrainedModel) -> str:
    """The name under which a decoder keeps its layers: ``layers``, ``h`` or, deeper inside, ``decoder.layers``.

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
    """A decoder's layers, from the lowest.

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
