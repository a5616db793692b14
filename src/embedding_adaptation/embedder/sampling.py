"""Sampling from a language model for many prompts at once: finished answers make room for the next prompt at every step.

What the prompts of a group begin with is read once and kept once. Tokens of all texts lie behind one another without padding; a registered
attention function keeps the texts apart and the keys and values of each in its own slot. Every prompt brings its own random numbers, so
that an answer does not depend on what else is generated beside it (but for rounding: in bfloat16 a tie between two tokens may fall either
way).
"""

from __future__ import annotations

import itertools
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.masking_utils import AttentionMaskInterface

from embedding_adaptation.embedder.decoder_pass import UnsupportedDecoderError, plain_attention

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

_IMPLEMENTATION = "answer_slots"
# Prompt tokens read at once, and free slots that are waited for: larger pieces use the processor better, smaller ones keep slots full.
_READ_TOKENS = 1024
_REFILL_SHARE = 0.125
# Passes come in few sizes: a CPU's matrix kernels are made anew for every size they have not met.
_WRITE_STEP, _READ_STEP, _SEEN_STEP = 8, 64, 16
# Nearly always the likeliest words up to any usual top_p are among so many; where they are not, all are sorted.
_LIKELIEST = 128
# On two cores more texts at once are no faster; on a GPU they are.
_MOST_SLOTS = {"cpu": 64, "cuda": 512, "mps": 64}
_BUDGET_MB = {"cpu": 1024, "mps": 1024}
_TOLERANCE = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 1e-1}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: The likeliest tokens up to this share are kept.
        max_new_tokens: Longest answer.
    """

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and a uniform number between 0 and 1 for each token of the answer."""

    ids: Sequence[int]
    draws: Sequence[float]


@dataclass
class _Active:
    number: int
    draws: Sequence[float]
    length: int  # tokens in its slot
    answer: list[int]


@dataclass
class _Lane:
    """Prompts that begin alike: what waits, what is under way, and its keys and values, a slot a text.

    Attributes:
        shared: Tokens that all of them begin with.
        waiting: Numbers of prompts, the shortest first.
        keys: ``[L, slots, KV, T, d]``.
        values: ``[L, slots, KV, T, d]``.
        prefix_keys: For each layer the keys of the shared beginning, ``[KV, P, d]``.
        prefix_values: For each layer its values.
        active: Texts under way, in the order of their slots.
    """

    shared: int
    waiting: deque[int]
    keys: torch.Tensor
    values: torch.Tensor
    prefix_keys: list[torch.Tensor] = field(default_factory=list)
    prefix_values: list[torch.Tensor] = field(default_factory=list)
    active: list[_Active] = field(default_factory=list)

    @property
    def free(self) -> int:
        return int(self.keys.shape[1]) - len(self.active)


@dataclass
class _Pass:
    """What the tokens of one pass are, for the attention.

    Attributes:
        lanes: In writing: lanes with their tokens' places, and the tokens in each of their slots ``[B]``, the new ones left out.
        reading: In reading: the lane, or ``None`` for a shared beginning.
        groups: In reading: first token, first slot, count and width of equally long rows.
        beginning: The lane whose shared beginning is read.
        calls: Layers that have used the attention.
        masks: Masks that all layers have in common.
    """

    lanes: list[tuple[_Lane, slice, torch.Tensor]] = field(default_factory=list)
    reading: _Lane | None = None
    groups: list[tuple[int, int, int, int]] = field(default_factory=list)
    beginning: _Lane | None = None
    calls: int = 0
    masks: dict[Any, Any] = field(default_factory=dict)


_running: ContextVar[_Pass | None] = ContextVar("answer_slots_running", default=None)


class AnswerSampler:
    """Samples answers to prompts.

    Args:
        model: A causal language model on its device.
        end_ids: Tokens that end an answer.
        sampling: How tokens are chosen.
        batch_size: Texts generated at once; ``None`` fills the memory.
        memory_mb: Memory for texts under way; ``None`` takes what suits the device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: frozenset[int],
        sampling: Sampling,
        *,
        batch_size: int | None = None,
        memory_mb: int | None = None,
    ) -> None:
        self.model = model
        self.end_ids = end_ids
        self.sampling = sampling
        self.batch_size = batch_size
        self.memory_mb = memory_mb
        self._fits: bool | None = None

    def answers(self, prompts: Sequence[Prompt], groups: Sequence[int] | None = None) -> Iterator[tuple[int, list[int], bool]]:
        """Answer prompts, the shortest first.

        Args:
            prompts: Prompts.
            groups: For each prompt the number of its group: what a group's prompts begin with is read once. ``None`` puts all into one.

        Yields:
            As they are finished: a prompt's number, the tokens of its answer without the end token, and whether the model came to an end.
        """
        if not prompts:
            return
        if self._fits is None:
            self._fits = slots_are_exact(self.model)
        if self._fits:
            yield from self._in_slots(prompts, groups or [0] * len(prompts))
        else:
            yield from self._plainly(prompts)

    def slots(self, tokens: int) -> int:
        """How many texts of so many tokens are generated at once."""
        device = self.model.device.type
        if self.batch_size is not None:
            return self.batch_size
        if self.memory_mb is not None:
            budget = self.memory_mb << 20
        elif device == "cuda":
            budget = torch.cuda.mem_get_info(self.model.device)[0] // 2
        else:
            budget = _BUDGET_MB.get(device, _BUDGET_MB["cpu"]) << 20
        layers, heads, width = _shape(self.model)
        itemsize = torch.empty(0, dtype=self.model.dtype).element_size()
        row = 2 * layers * heads * width * tokens * itemsize + 3 * 4 * int(self.model.config.get_text_config().vocab_size)
        return max(1, min(_MOST_SLOTS.get(device, 64), budget // row))

    def _in_slots(self, prompts: Sequence[Prompt], groups: Sequence[int]) -> Iterator[tuple[int, list[int], bool]]:
        with _attending(self.model):
            lanes = self._lanes(prompts, groups)
            while any(lane.waiting or lane.active for lane in lanes):
                ready = [lane for lane in lanes if _wants_more(lane)]
                for lane in ready:
                    joined = [lane.waiting.popleft() for _ in range(min(lane.free, len(lane.waiting)))]
                    yield from self._read(lane, [(number, prompts[number]) for number in joined])
                if not ready:
                    yield from self._write([lane for lane in lanes if lane.active])

    def _lanes(self, prompts: Sequence[Prompt], groups: Sequence[int]) -> list[_Lane]:
        """A lane a group, each with its share of the slots and its beginning read."""
        layers, heads, width = _shape(self.model)
        members: dict[int, list[int]] = {}
        for number, group in enumerate(groups):
            members.setdefault(group, []).append(number)
        plans = []
        for numbers in members.values():
            numbers.sort(key=lambda number: (len(prompts[number].ids), number))
            shared = common_prefix([prompts[number].ids for number in numbers])
            capacity = len(prompts[numbers[-1]].ids) - shared + self.sampling.max_new_tokens
            plans.append((numbers, shared, -(-capacity // _SEEN_STEP) * _SEEN_STEP))
        total = self.slots(max(capacity for _, _, capacity in plans))
        lanes = []
        for numbers, shared, capacity in plans:
            count = max(1, min(len(numbers), round(total * len(numbers) / len(prompts))))
            shape = (layers, count, heads, capacity, width)
            store = [torch.zeros(shape, dtype=self.model.dtype, device=self.model.device) for _ in range(2)]
            lane = _Lane(shared, deque(numbers), store[0], store[1])
            if shared:
                ids = prompts[numbers[0]].ids[:shared]
                self._pass(_Pass(beginning=lane), list(ids), list(range(shared)), [shared - 1])
            lanes.append(lane)
        return lanes

    def _read(self, lane: _Lane, joined: list[tuple[int, Prompt]]) -> Iterator[tuple[int, list[int], bool]]:
        """Read prompts into free slots and choose the first token of each answer."""
        rows = [(number, prompt.draws, list(prompt.ids[lane.shared :])) for number, prompt in joined]
        while rows:
            tokens, taken = 0, 0
            while taken < len(rows) and (not taken or tokens + len(rows[taken][2]) <= _READ_TOKENS):
                tokens += len(rows[taken][2])
                taken += 1
            batch, rows = rows[:taken], rows[taken:]
            running = _Pass(reading=lane)
            start, slot = 0, len(lane.active)
            for length, members in itertools.groupby(batch, key=lambda row: len(row[2])):
                size = len(list(members))
                running.groups.append((start, slot, size, length))
                start, slot = start + size * length, slot + size
            ends = list(itertools.accumulate(len(ids) for _, _, ids in batch))
            positions = [lane.shared + place for _, _, ids in batch for place in range(len(ids))]
            logits = self._pass(running, [token for _, _, ids in batch for token in ids], positions, [end - 1 for end in ends])
            lane.active += [_Active(number, draws, len(ids), []) for number, draws, ids in batch]
            yield from self._choose([(lane, len(lane.active) - taken)], logits)

    def _write(self, lanes: list[_Lane]) -> Iterator[tuple[int, list[int], bool]]:
        """Add one token to every answer under way."""
        running = _Pass()
        start = 0
        for lane in lanes:
            lengths = torch.tensor([row.length for row in lane.active], device=self.model.device)  # [B]
            running.lanes.append((lane, slice(start, start + len(lane.active)), lengths))
            start += len(lane.active)
        ids = [row.answer[-1] for lane in lanes for row in lane.active]
        positions = [lane.shared + row.length for lane in lanes for row in lane.active]
        logits = self._pass(running, ids, positions, list(range(start)))  # [B, V]
        for lane in lanes:
            for row in lane.active:
                row.length += 1
        yield from self._choose([(lane, 0) for lane in lanes], logits)

    def _choose(self, lanes: list[tuple[_Lane, int]], logits: torch.Tensor) -> Iterator[tuple[int, list[int], bool]]:
        """Choose a token for each lane's rows from its first one on; finished ones are given out, their slots filled from behind."""
        rows = [row for lane, first in lanes for row in lane.active[first:]]
        draws = torch.tensor([row.draws[len(row.answer)] for row in rows], device=logits.device)  # [B]
        for row, token in zip(rows, choose_tokens(logits, draws, self.sampling).tolist(), strict=True):
            row.answer.append(token)
        for lane, first in lanes:
            for place in range(len(lane.active) - 1, first - 1, -1):
                row = lane.active[place]
                ended = row.answer[-1] in self.end_ids
                if not ended and len(row.answer) < self.sampling.max_new_tokens:
                    continue
                last = lane.active.pop()
                if last is not row:
                    behind = len(lane.active)
                    for store in (lane.keys, lane.values):
                        store[:, place, :, : last.length] = store[:, behind, :, : last.length]
                    lane.active[place] = last
                yield row.number, row.answer[:-1] if ended else row.answer, ended

    def _pass(self, running: _Pass, ids: list[int], positions: list[int], kept: list[int]) -> torch.Tensor:
        """Logits of the kept tokens, ``[n, V]`` float32."""
        device = self.model.device
        padding = -len(ids) % (_WRITE_STEP if running.lanes else _READ_STEP)
        token = _running.set(running)
        try:
            with torch.inference_mode():
                output = self.model(
                    input_ids=torch.tensor([ids + [0] * padding], device=device),
                    position_ids=torch.tensor([positions + [0] * padding], device=device),
                    use_cache=False,
                    logits_to_keep=torch.tensor(kept, device=device),
                )
        finally:
            _running.reset(token)
        layers = int(self.model.config.get_text_config().num_hidden_layers)
        if running.calls != layers:
            msg = f"{type(self.model).__name__} used the attention given to it in {running.calls} of {layers} layers"
            raise UnsupportedDecoderError(msg)
        return output.logits[0].float()

    def _plainly(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, list[int], bool]]:
        """The same for models whose attention cannot be replaced, by transformers' own loop."""
        order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number].ids), number))
        size = self.slots(max((len(prompt.ids) for prompt in prompts), default=0) + self.sampling.max_new_tokens)
        for first in range(0, len(order), size):
            numbers = order[first : first + size]
            answers = plain_answers(self.model, [prompts[number] for number in numbers], self.end_ids, self.sampling)
            yield from ((number, answer, ended) for number, (answer, ended) in zip(numbers, answers, strict=True))


def plain_answers(
    model: PreTrainedModel, prompts: Sequence[Prompt], end_ids: frozenset[int], sampling: Sampling
) -> list[tuple[list[int], bool]]:
    """The same answers by transformers' own generation, one padded batch: slower, for any model.

    Returns:
        For each prompt the tokens of its answer without the end token, and whether the model came to an end.
    """

    class Draw(LogitsProcessor):
        """Leaves only the token that a row's own random number chooses."""

        def __init__(self) -> None:
            self.step = 0

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            draws = torch.tensor([prompt.draws[self.step] for prompt in prompts], device=scores.device)  # [B]
            self.step += 1
            tokens = choose_tokens(scores.float(), draws, sampling)  # [B]
            return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None].to(input_ids.device), 0.0)

    pad = min(end_ids, default=0)
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)  # [B, T]
    mask = torch.zeros_like(ids)  # [B, T]
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt.ids) :] = torch.tensor(list(prompt.ids))
        mask[row, width - len(prompt.ids) :] = 1
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, do_sample=False, pad_token_id=pad, eos_token_id=sorted(end_ids) or None
    )
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([Draw()]),
        )
    answers = []
    for row in output[:, width:].tolist():
        end = next((place for place, token in enumerate(row) if token in end_ids), None)
        answers.append((row if end is None else row[:end], end is not None))
    return answers


def choose_tokens(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Choose one token a row from the likeliest ones that together reach ``top_p``.

    Args:
        logits: ``[B, V]`` float32.
        draws: A number between 0 and 1 for each row, ``[B]``.
        sampling: Temperature and ``top_p``.

    Returns:
        Token ids ``[B]``.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(dim=1)
    scaled = logits / sampling.temperature  # [B, V]
    total = scaled.logsumexp(dim=1, keepdim=True)  # [B, 1]
    count = min(_LIKELIEST, scaled.shape[1])
    best, ids = scaled.topk(count, dim=1)  # [B, count]
    shares = (best - total).exp()
    if count < scaled.shape[1] and bool((shares.sum(dim=1) < sampling.top_p).any()):
        best, ids = scaled.sort(dim=1, descending=True)
        shares = (best - total).exp()  # [B, V]
    reached = shares.cumsum(dim=1)
    kept = reached - shares < sampling.top_p  # [B, count], the first is always kept
    mass = (shares * kept).sum(dim=1)  # [B]
    place = (reached < (draws * mass)[:, None]).sum(dim=1)  # [B]
    place = torch.minimum(place, kept.sum(dim=1) - 1)
    return ids.gather(1, place[:, None])[:, 0]


def slots_are_exact(model: PreTrainedModel) -> bool:
    """Whether this model's next tokens from slots are its own: tried with a shared beginning, three prompts and two tokens."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    prompts = [[token % vocabulary for token in ids] for ids in ([3, 5, 7, 11, 13, 17], [3, 5, 19, 23], [3, 5, 29, 31])]
    sampler = AnswerSampler(model, frozenset(), Sampling(0.0, 1.0, 2))
    tolerance = _TOLERANCE[str(model.dtype).removeprefix("torch.")]
    order = [prompts[1], prompts[2], prompts[0]]
    try:
        layers, heads, width = _shape(model)
        store = [torch.zeros(layers, 3, heads, _SEEN_STEP, width, dtype=model.dtype, device=model.device) for _ in range(2)]
        lane = _Lane(2, deque(), store[0], store[1])
        with _attending(model):
            sampler._pass(_Pass(beginning=lane), prompts[0][:2], [0, 1], [1])  # noqa: SLF001  the same module
            reading = _Pass(reading=lane, groups=[(0, 0, 2, 2), (4, 2, 1, 4)])
            tails = [token for ids in order for token in ids[2:]]
            read = sampler._pass(reading, tails, [2, 3, 2, 3, 2, 3, 4, 5], [1, 3, 7])  # noqa: SLF001
            writing = _Pass(lanes=[(lane, slice(0, 3), torch.tensor([2, 2, 4], device=model.device))])
            written = sampler._pass(writing, [37 % vocabulary] * 3, [4, 4, 6], [0, 1, 2])  # noqa: SLF001
    except (UnsupportedDecoderError, TypeError, AttributeError, RuntimeError):
        return False
    for ids, first, second in zip(order, read, written, strict=True):
        with torch.inference_mode():
            alone = model(input_ids=torch.tensor([[*ids, 37 % vocabulary]], device=model.device), use_cache=False).logits[0].float()
        for one, other in ((first, alone[-2]), (second, alone[-1])):
            if not (one - other).norm() <= tolerance * other.norm():  # not a number is not exact either
                return False
    return True


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all prompts begin with; at least one is left to each."""
    first, last = min(map(list, prompts)), max(map(list, prompts))  # in dictionary order: what these share, all share
    limit = min(map(len, prompts)) - 1
    for position in range(limit):
        if first[position] != last[position]:
            return position
    return max(limit, 0)


def _shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """Layers, key heads and width of a head."""
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    return int(config.num_hidden_layers), int(getattr(config, "num_key_value_heads", None) or heads), int(width)


@contextmanager
def _attending(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model's attention is that of slots."""
    AttentionInterface.register(_IMPLEMENTATION, _slot_attention)
    AttentionMaskInterface.register(_IMPLEMENTATION, _no_mask)
    before = model.config._attn_implementation  # noqa: SLF001  there is no public getter
    try:
        model.set_attn_implementation(_IMPLEMENTATION)
    except (ValueError, AttributeError) as error:
        raise UnsupportedDecoderError(str(error)) from error
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def _slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  the slots say what is seen
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of packed tokens to their own slots; query ``[1, H, N, d]``, key and value ``[1, KV, N, d]`` -> ``[1, N, H, d]``."""
    running = _running.get()
    if running is None or kwargs.get("s_aux") is not None:
        msg = "this model's attention has learned sinks, which slots do not know" if running else "no sampler is running"
        raise UnsupportedDecoderError(msg)
    running.calls += 1
    layer = module.layer_idx
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    repeats = query.shape[1] // key.shape[1]
    output = query.new_zeros(query.shape[2], query.shape[1], value.shape[3])  # [N, H, d], zero where tokens only fill up the pass
    lane: _Lane | None
    for lane, span, lengths in running.lanes:
        output[span] = _writing(
            running, lane, layer, query[0, :, span], key[0, :, span], value[0, :, span], lengths, scale, sliding_window, softcap
        )
    if running.beginning is not None:
        lane, shared = running.beginning, running.beginning.shared
        lane.prefix_keys.append(key[0, :, :shared].contiguous())
        lane.prefix_values.append(value[0, :, :shared].contiguous())
        mask = _reading_mask(running, 0, shared, sliding_window, query, repeats)
        q, k, v = (tensor[:, :, :shared] for tensor in (query, key, value))
        output[:shared] = plain_attention(q, k, v, mask, scale=scale, softcap=softcap)[0].transpose(0, 1)
    for start, slot, count, length in running.groups:
        lane = running.reading
        assert lane is not None  # noqa: S101  there are groups only where there is one
        span = slice(start, start + count * length)
        q, k, v = (tensor[0, :, span].unflatten(1, (count, length)).transpose(0, 1) for tensor in (query, key, value))  # [n, H, R, d]
        lane.keys[layer, slot : slot + count, :, :length] = k
        lane.values[layer, slot : slot + count, :, :length] = v
        if lane.shared:
            k, v = _behind(lane.prefix_keys[layer], k), _behind(lane.prefix_values[layer], v)  # [n, KV, P + R, d]
        mask = _reading_mask(running, lane.shared, length, sliding_window, query, repeats)
        attended = plain_attention(q, k, v, mask, scale=scale, softcap=softcap)  # [n, H, R, d]
        output[span].view(count, length, *output.shape[1:]).copy_(attended.transpose(1, 2))
    return output[None], None


def _wants_more(lane: _Lane) -> bool:
    """Whether it is time to read: nothing is under way, or enough slots are free."""
    if not lane.waiting:
        return False
    enough = max(1, min(len(lane.waiting), round(lane.keys.shape[1] * _REFILL_SHARE)))
    return not lane.active or lane.free >= enough


def _behind(prefix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([prefix.expand(len(rows), -1, -1, -1), rows], dim=2)


def _writing(
    running: _Pass,
    lane: _Lane,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of one new token a slot to the shared beginning and its slot; query ``[H, B, d]`` -> ``[B, H, d]``."""
    count, shared, heads = len(lengths), lane.shared, key.shape[0]
    rows = torch.arange(count, device=lengths.device)
    lane.keys[layer, rows, :, lengths] = key.transpose(0, 1)
    lane.values[layer, rows, :, lengths] = value.transpose(0, 1)
    mask = _writing_mask(running, lane, lengths, window, query)  # [B, 1, 1, P + T]
    seen = mask.shape[3] - shared
    own_keys = lane.keys[layer, :count].flatten(0, 1)[:, :seen]  # [B KV, T, d]
    own_values = lane.values[layer, :count].flatten(0, 1)[:, :seen]
    q = query.unflatten(0, (heads, -1)).permute(2, 0, 1, 3)  # [B, KV, G, d]
    scores = torch.bmm(q.reshape(count * heads, -1, q.shape[3]), own_keys.transpose(1, 2)).view(count, heads, -1, seen)  # [B, KV, G, T]
    if shared:
        before = torch.bmm(q.transpose(0, 1).reshape(heads, -1, q.shape[3]), lane.prefix_keys[layer].transpose(1, 2))  # [KV, B G, P]
        scores = torch.cat([before.view(heads, count, -1, shared).transpose(0, 1), scores], dim=3)  # [B, KV, G, P + T]
    scores = scores * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    weights = (scores + mask).softmax(dim=-1)  # [B, KV, G, P + T]
    attended = torch.bmm(weights[..., shared:].reshape(count * heads, -1, seen), own_values).view(count, heads, -1, value.shape[2])
    if shared:
        of_prefix = weights[..., :shared].transpose(0, 1).reshape(heads, -1, shared)  # [KV, B G, P]
        before = torch.bmm(of_prefix, lane.prefix_values[layer])
        attended = attended + before.view(heads, count, -1, value.shape[2]).transpose(0, 1)
    return attended.flatten(1, 2)  # [B, H, d]


def _writing_mask(running: _Pass, lane: _Lane, lengths: torch.Tensor, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Additive, ``[B, 1, 1, P + T]``, made once a pass."""
    key = ("writing", id(lane), window)
    if key not in running.masks:
        seen = -(-(int(lengths.max()) + 1) // _SEEN_STEP) * _SEEN_STEP
        places = torch.arange(lane.shared + seen, device=like.device)  # [P + T]
        here = (lane.shared + lengths)[:, None]  # [B, 1]
        allowed = places <= here  # [B, P + T]
        if window is not None:
            allowed = allowed & (here - places < window)
        mask = torch.zeros(allowed.shape, dtype=like.dtype, device=like.device).masked_fill_(~allowed, float("-inf"))
        running.masks[key] = mask[:, None, None]
    return running.masks[key]


def _reading_mask(running: _Pass, shared: int, length: int, window: int | None, like: torch.Tensor, repeats: int) -> torch.Tensor:
    """Additive and causal, ``[G R, P + R]``, made once a pass."""
    key = (shared, length, window)
    if key not in running.masks:
        here = shared + torch.arange(length)[:, None]  # [R, 1]
        places = torch.arange(shared + length)  # [P + R]
        allowed = places <= here
        if window is not None:
            allowed = allowed & (here - places < window)
        mask = torch.zeros(allowed.shape, dtype=like.dtype).masked_fill_(~allowed, float("-inf"))
        running.masks[key] = mask.repeat(repeats, 1).to(like.device)
    return running.masks[key]
