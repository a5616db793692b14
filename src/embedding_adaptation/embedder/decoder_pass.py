"""One pass of a decoder over packed rows: no padding, no vocabulary logits, no layer and no hidden state that nobody asked for.

All tokens of a batch go through the linear layers as one long sequence. Attention alone needs to know where a text begins and ends: a
registered attention function cuts the sequence into groups of equally long rows and gives each group the attention of its
:class:`~embedding_adaptation.embedder.prompt_tree.RowLayout`.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.prompt_tree import RowLayout

_IMPLEMENTATION = "packed_rows"
# Scores of this many elements at most are computed at once on a CPU: they stay in the cache.
_SCORES_AT_ONCE = 1 << 20
# From here on a fused kernel beats plain products on a CPU, and never keeps all scores.
_LONG_ROW = 1024


class UnsupportedDecoderError(RuntimeError):
    """A model that cannot be computed row by row in a packed sequence."""


@contextmanager
def trying_out(name: str) -> Iterator[None]:
    """Within, what a model raises because it expects more than packed rows give it (a mask, a batch) says that it cannot be packed.

    Raises:
        UnsupportedDecoderError: In its place.
    """
    import torch

    try:
        yield
    except (UnsupportedDecoderError, torch.OutOfMemoryError):
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError) as error:
        msg = f"{name} does not compute packed rows ({type(error).__name__}: {str(error)[:200]})"
        raise UnsupportedDecoderError(msg) from error


@dataclass
class RowGroup:
    """Equally long rows that lie one after the other in a packed sequence.

    Attributes:
        start: Where they begin.
        count: How many they are.
        layout: What they have in common.
    """

    start: int
    count: int
    layout: RowLayout

    @property
    def span(self) -> slice:
        """Their tokens in the packed sequence."""
        return slice(self.start, self.start + self.count * self.layout.width)


@dataclass
class Prefix:
    """What the tokens before all rows left behind.

    Attributes:
        keys_values: For each layer keys and values ``[KV, P, d]``.
        hidden: For each wanted layer the hidden states ``[P, D]``.
    """

    keys_values: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
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


@dataclass
class _Running:
    groups: Sequence[RowGroup]
    prefix: Prefix
    wanted: Wanted
    result: PassResult
    record: Prefix | None
    calls: int = 0
    masks: dict[Any, torch.Tensor] = field(default_factory=dict)


class _Enough(BaseException):
    pass


_running: ContextVar[_Running | None] = ContextVar("packed_rows_running", default=None)


class PackedDecoder:
    """A decoder that computes packed rows.

    Args:
        backbone: A decoder without vocabulary head, or a PEFT model around one.

    Raises:
        UnsupportedDecoderError: If the decoder's layers cannot be found.
    """

    def __init__(self, backbone: PreTrainedModel) -> None:
        inner = getattr(backbone, "get_base_model", None)
        self.decoder: PreTrainedModel = inner() if inner else backbone
        self.layers = decoder_layers(self.decoder)
        self.attentions = [_attention_module(layer) for layer in self.layers]
        # An adapter's weights are float32; autocast multiplies them in the base's format, which is twice as fast on a CPU.
        self.mixed = len({parameter.dtype for parameter in self.decoder.parameters()}) > 1

    @contextmanager
    def packing(self) -> Iterator[None]:
        """Within, the decoder's attention is that of packed rows.

        Raises:
            UnsupportedDecoderError: If the model's attention cannot be replaced.
        """
        with self.implementation(_IMPLEMENTATION, _packed_attention):
            yield

    @contextmanager
    def implementation(
        self, name: str, attention: Callable[..., tuple[torch.Tensor, None]], *, mask: Callable[..., torch.Tensor | None] | None = None
    ) -> Iterator[None]:
        """Within, the decoder's attention is the given function.

        Args:
            name: Its name in the registry.
            attention: The function.
            mask: What makes the masks it is told of; ``None`` makes none.

        Raises:
            UnsupportedDecoderError: If the model's attention cannot be replaced.
        """
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface

        # Both registries: without its mask function an implementation silently runs without a mask. Here that is most often the point: the
        # function knows what each token sees.
        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, mask or _no_mask)
        before = self.decoder.config._attn_implementation  # noqa: SLF001  there is no public getter
        try:
            self.decoder.set_attn_implementation(name)
        except (ValueError, AttributeError) as error:
            msg = f"{type(self.decoder).__name__} does not let its attention be replaced ({error})"
            raise UnsupportedDecoderError(msg) from error
        try:
            yield
        finally:
            self.decoder.set_attn_implementation(before)

    def read_prefix(self, ids: Sequence[int], layout: RowLayout, wanted: Wanted) -> Prefix:
        """Compute the tokens before all rows.

        Args:
            ids: Their ids.
            layout: A causal layout of as many tokens.
            wanted: What the rows will be asked for.
        """
        record = Prefix()
        if ids:
            group = RowGroup(0, 1, layout)
            result = self._run([list(ids)], [group], Prefix(), Wanted(wanted.hidden | {wanted.highest}), record)
            record.hidden = {layer: result.hidden[layer] for layer in wanted.hidden}
        return record

    def run(self, rows: Sequence[Sequence[int]], groups: Sequence[RowGroup], prefix: Prefix, wanted: Wanted) -> PassResult:
        """Compute rows.

        Args:
            rows: Ids of each row, in the order of the groups.
            groups: Where equally long rows lie.
            prefix: What :meth:`read_prefix` returned.
            wanted: What to return.

        Raises:
            UnsupportedDecoderError: If a layer did not use the attention given to it, so that rows would have seen each other.
        """
        return self._run(rows, groups, prefix, wanted, None)

    def _run(
        self, rows: Sequence[Sequence[int]], groups: Sequence[RowGroup], prefix: Prefix, wanted: Wanted, record: Prefix | None
    ) -> PassResult:
        import torch

        device = self.decoder.device
        input_ids = torch.tensor([token for row in rows for token in row], device=device)  # [N]
        positions = torch.cat([g.layout.positions[g.layout.shared :].repeat(g.count) for g in groups]).to(device)  # [N]
        result = PassResult()
        state = _Running(groups, prefix, wanted, result, record)
        dtype = self.decoder.dtype
        token = _running.set(state)
        try:
            with (
                torch.inference_mode(),
                self._capturing(wanted, result),
                torch.autocast(device.type, dtype=dtype) if self.mixed and dtype != torch.float32 else nullcontext(),
            ):
                output = self.decoder(input_ids=input_ids[None], position_ids=positions[None], use_cache=False)
                if len(self.layers) in wanted.hidden:
                    result.hidden[len(self.layers)] = output.last_hidden_state[0]
        except _Enough:
            pass
        finally:
            _running.reset(token)
        if state.calls != wanted.highest:
            msg = (
                f"{type(self.decoder).__name__} used the attention given to it in {state.calls} of {wanted.highest} layers; "
                "the others mix tokens in their own way"
            )
            raise UnsupportedDecoderError(msg)
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


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def layers_name(decoder: PreTrainedModel) -> str:
    """The name under which a decoder keeps its layers: ``layers``, ``h`` or, deeper inside, ``decoder.layers``.

    Raises:
        UnsupportedDecoderError: If they cannot be found.
    """
    import torch

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


def _packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  the layouts say what is seen
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each group of rows; query ``[1, H, N, d]``, key and value ``[1, KV, N, d]`` -> ``[1, N, H, d]``."""
    import torch

    running = _running.get()
    if running is None or kwargs.get("s_aux") is not None:
        msg = "this model's attention has learned sinks, which packed rows do not know" if running else "no packed pass is running"
        raise UnsupportedDecoderError(msg)
    running.calls += 1
    layer = module.layer_idx
    heads, key_heads, width = query.shape[1], key.shape[1], value.shape[3]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if running.record is not None:
        running.record.keys_values[layer] = (key[0].contiguous(), value[0].contiguous())
    before = running.prefix.keys_values.get(layer)
    output = query.new_empty(query.shape[2], heads, width)  # [N, H, d]
    rows: list[torch.Tensor] = []
    wants_rows = layer + 1 in running.wanted.last_rows
    with torch.autocast(query.device.type, enabled=False):
        for group in running.groups:
            count, length = group.count, group.layout.width
            seen = length + (group.layout.shared if before else 0)
            allowed = _mask(running, group.layout, sliding_window, query, repeats=1)
            fused = query.device.type != "cpu" or length >= _LONG_ROW
            step = count if fused else max(1, _SCORES_AT_ONCE // (heads * length * seen))
            pieces = []
            for first in range(0, count, step):
                n = min(step, count - first)
                span = slice(group.start + first * length, group.start + (first + n) * length)
                q = query[0, :, span].unflatten(1, (n, length)).transpose(0, 1)  # [n, H, R, d]
                k = key[0, :, span].unflatten(1, (n, length)).transpose(0, 1)  # [n, KV, R, d]
                v = value[0, :, span].unflatten(1, (n, length)).transpose(0, 1)  # [n, KV, R, d]
                if before:
                    k = torch.cat([before[0].expand(n, -1, -1, -1), k], dim=2)  # [n, KV, P + R, d]
                    v = torch.cat([before[1].expand(n, -1, -1, -1), v], dim=2)  # [n, KV, P + R, d]
                if fused and not softcap:
                    attended = torch.nn.functional.scaled_dot_product_attention(
                        q, _repeat(k, heads), _repeat(v, heads), attn_mask=allowed, scale=scale
                    )  # [n, H, R, d]
                else:
                    mask = _mask(running, group.layout, sliding_window, query, repeats=heads // key_heads)  # [G R, P + R]
                    attended = plain_attention(q, k, v, mask, scale=scale, softcap=softcap)  # [n, H, R, d]
                output[span].view(n, length, heads, width).copy_(attended.transpose(1, 2))
                if wants_rows:
                    pieces.append(_last_rows(q, k, allowed, group.layout.last, scale=scale, softcap=softcap))
            if wants_rows:
                rows.append(torch.cat(pieces))
    if wants_rows:
        running.result.last_rows[layer + 1] = rows
    return output[None], None


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *, scale: float, softcap: float | None
) -> torch.Tensor:
    """Attention of ``[n, H, R, d]`` queries under an additive mask; heads that share keys are computed as one long query."""
    import torch

    n, heads, length, width = query.shape
    shared = key.shape[1]
    q = query.reshape(n * shared, heads // shared * length, width)  # [n KV, G R, d]
    k, v = key.flatten(0, 1), value.flatten(0, 1)  # [n KV, P + R, d]
    if softcap:
        scores = softcap * torch.tanh(torch.bmm(q, k.transpose(1, 2)) * (scale / softcap)) + mask  # [n KV, G R, P + R]
    else:
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)  # [n KV, G R, P + R]
    return torch.bmm(scores.softmax(dim=-1), v).view(n, heads, length, v.shape[2])  # [n, H, R, d]


def _last_rows(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, last: Sequence[int], *, scale: float, softcap: float | None
) -> torch.Tensor:
    """Attention weights of the templates' last tokens in float32, ``[n, H, templates, P + R]``."""
    import torch

    places = list(last)
    scores = torch.einsum("nhld,nhkd->nhlk", query[:, :, places].float(), _repeat(key, query.shape[1]).float()) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores + mask[places].float()).softmax(dim=-1)


def _repeat(heads: torch.Tensor, count: int) -> torch.Tensor:
    return heads.repeat_interleave(count // heads.shape[1], dim=1)  # [n, H, P + R, d]


def _mask(running: _Running, layout: RowLayout, window: int | None, like: torch.Tensor, repeats: int) -> torch.Tensor:
    """The layout's additive mask, ``[repeats * R, P + R]``, made once a pass."""
    import torch

    key = (id(layout), window, repeats)
    if key not in running.masks:
        allowed = layout.allowed  # [R, P + R]
        if window is not None and window < layout.shared + layout.width:
            distance = layout.positions[layout.shared :, None] - layout.positions[None, :]  # [R, P + R]
            allowed = allowed & (distance < window)
        mask = torch.zeros(allowed.shape, dtype=like.dtype).masked_fill_(~allowed, float("-inf"))
        running.masks[key] = mask.repeat(repeats, 1).to(like.device)
    return running.masks[key]
