"""Sampling from a language model for many prompts at once: at every step, finished answers make room for the next prompts.

The common prefix of a group's prompts is read and stored once. The tokens of all texts form one packed sequence without padding; attention
keeps the texts apart and stores the keys and values of each in its own slot. Every prompt comes with its own random numbers, so an answer
does not depend on what is generated at the same time (except for rounding: in bfloat16, a tie between two tokens may go either way).
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from embedding_adaptation.embedder.attention_swap import (
    AttentionCall,
    AttentionPass,
    UnsupportedDecoderError,
    additive,
    replaced_attention,
    visible,
)
from embedding_adaptation.embedder.decoder_pass import KeysValues, RowAttention, RowGroup, prefix_attention, row_groups
from embedding_adaptation.embedder.prompt_tree import causal_layout
from embedding_adaptation.embedder.reference import plain_answers
from embedding_adaptation.embedder.token_choice import Prompt, Sampling, choose_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

# Prompt tokens read at once, and share of slots that must be free: larger values use the processor better, smaller ones keep slots full.
_READ_TOKENS = 1024
_REFILL_SHARE = 0.125
# Passes are padded to a few sizes, because a CPU prepares its matrix kernels again for every new size.
_WRITE_STEP, _READ_STEP, _SEEN_STEP = 8, 64, 16
# On two cores more texts at once are no faster; on a GPU they are.
_MOST_SLOTS = {"cpu": 64, "cuda": 512, "mps": 64}
_BUDGET_MB = {"cpu": 1024, "mps": 1024}
_TOLERANCE = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 1e-1}


@dataclass
class _Active:
    number: int
    draws: Sequence[float]
    length: int  # tokens in its slot
    answer: list[int]


@dataclass
class _Lane:
    """Prompts with a common prefix: those waiting, those in progress, and a slot for the keys and values of each of the latter.

    Attributes:
        shared: Tokens of the prefix, ``P``.
        waiting: Indices of prompts, shortest first.
        keys: ``[L, slots, KV, T, d]``.
        values: ``[L, slots, KV, T, d]``.
        prefix: Keys and values of the prefix.
        active: Texts in progress, in the order of their slots.
    """

    shared: int
    waiting: deque[int]
    keys: torch.Tensor
    values: torch.Tensor
    prefix: KeysValues = field(default_factory=dict)
    active: list[_Active] = field(default_factory=list)

    @property
    def free(self) -> int:
        return int(self.keys.shape[1]) - len(self.active)

    def reading_attention(self, lengths: Sequence[int]) -> RowAttention:
        """Attention of a pass that reads prompts, without their prefix, into the next free slots; equal lengths must be adjacent."""
        groups = row_groups(lengths, lambda length: causal_layout(length, self.shared))
        used = len(self.active)

        def keep(layer: int, group: RowGroup, keys: torch.Tensor, values: torch.Tensor) -> None:
            slots = slice(used + group.members.start, used + group.members.stop)
            self.keys[layer, slots, :, : group.layout.width] = keys
            self.values[layer, slots, :, : group.layout.width] = values

        return RowAttention(groups, self.prefix, keep=keep)


class _SlotAttention(AttentionPass):
    """Attention of one new token per slot to the prefix of its lane and to the contents of the slot.

    Args:
        lanes: Lanes in the order of their tokens, each with the number of tokens in its slots ``[B]``, excluding the new ones.
    """

    def __init__(self, lanes: list[tuple[_Lane, torch.Tensor]]) -> None:
        super().__init__()
        self.lanes = lanes

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Compute the attention of all lanes, ``[1, N, H, d]``; zero at padding."""
        output = call.query.new_zeros(call.query.shape[2], call.query.shape[1], call.value.shape[3])  # [N, H, d]
        start = 0
        for lane, lengths in self.lanes:
            span = slice(start, start + len(lengths))
            output[span] = self._attend_lane(call, lane, lengths, span)
            start = span.stop
        return output[None]

    def _attend_lane(self, call: AttentionCall, lane: _Lane, lengths: torch.Tensor, span: slice) -> torch.Tensor:
        """Attention of one lane's tokens, ``[B, H, d]``."""
        query, key, value = (states[0, :, span] for states in (call.query, call.key, call.value))  # [H, B, d], [KV, B, d] twice
        count, shared, heads = len(lengths), lane.shared, key.shape[0]
        rows = torch.arange(count, device=lengths.device)
        lane.keys[call.layer, rows, :, lengths] = key.transpose(0, 1)
        lane.values[call.layer, rows, :, lengths] = value.transpose(0, 1)
        mask = self._lane_mask(lane, lengths, call)  # [B, 1, 1, P + T]
        seen = mask.shape[3] - shared
        own_keys = lane.keys[call.layer, :count].flatten(0, 1)[:, :seen]  # [B KV, T, d]
        own_values = lane.values[call.layer, :count].flatten(0, 1)[:, :seen]  # [B KV, T, d]
        q = query.unflatten(0, (heads, -1)).permute(2, 0, 1, 3)  # [B, KV, G, d]
        scores = torch.bmm(q.reshape(count * heads, -1, q.shape[3]), own_keys.transpose(1, 2)).view(count, heads, -1, seen)  # [B, KV, G, T]
        if shared:
            prefix_keys, prefix_values = lane.prefix[call.layer]  # [KV, P, d]
            before = torch.bmm(q.transpose(0, 1).reshape(heads, -1, q.shape[3]), prefix_keys.transpose(1, 2))  # [KV, B G, P]
            scores = torch.cat([before.view(heads, count, -1, shared).transpose(0, 1), scores], dim=3)  # [B, KV, G, P + T]
        scores = scores * call.scale
        if call.softcap:
            scores = call.softcap * torch.tanh(scores / call.softcap)
        weights = (scores + mask).softmax(dim=-1)  # [B, KV, G, P + T]
        attended = torch.bmm(weights[..., shared:].reshape(count * heads, -1, seen), own_values).view(count, heads, -1, value.shape[2])
        if shared:
            of_prefix = weights[..., :shared].transpose(0, 1).reshape(heads, -1, shared)  # [KV, B G, P]
            before = torch.bmm(of_prefix, prefix_values)  # [KV, B G, d]
            attended = attended + before.view(heads, count, -1, value.shape[2]).transpose(0, 1)  # [B, KV, G, d]
        return attended.flatten(1, 2)  # [B, H, d]

    def _lane_mask(self, lane: _Lane, lengths: torch.Tensor, call: AttentionCall) -> torch.Tensor:
        """The additive mask of a lane, ``[B, 1, 1, P + T]``, computed once per pass."""
        key = (id(lane), call.window, 1)
        if key not in self._masks:
            seen = -(-(int(lengths.max()) + 1) // _SEEN_STEP) * _SEEN_STEP
            places = torch.arange(lane.shared + seen, device=lengths.device)  # [P + T]
            self._masks[key] = additive(visible(lane.shared + lengths, places, call.window), call.query)[:, None, None]
        return self._masks[key]


class AnswerSampler:
    """Samples answers to prompts.

    Args:
        model: A causal language model on its device.
        end_ids: Tokens that end an answer.
        sampling: How tokens are chosen.
        batch_size: Number of texts generated at once; ``None`` uses as many as fit into memory.
        memory_mb: Memory for texts in progress; ``None`` chooses what suits the device.
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
        """Answer prompts, shortest first.

        Args:
            prompts: The prompts.
            groups: The group of each prompt; the common prefix of a group is read once. ``None`` forms a single group.

        Yields:
            For each finished answer, the index of its prompt, its tokens without the end token, and whether it ended by itself.
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
        """How many texts with this many tokens are generated at once."""
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
        with replaced_attention(self.model):
            lanes = self._lanes(prompts, groups)
            while any(lane.waiting or lane.active for lane in lanes):
                ready = [lane for lane in lanes if _wants_more(lane)]
                for lane in ready:
                    joined = [lane.waiting.popleft() for _ in range(min(lane.free, len(lane.waiting)))]
                    yield from self._read(lane, [(number, prompts[number]) for number in joined])
                if not ready:
                    yield from self._write([lane for lane in lanes if lane.active])

    def _lanes(self, prompts: Sequence[Prompt], groups: Sequence[int]) -> list[_Lane]:
        """One lane per group, with its share of the slots and its prefix already read."""
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
                self._pass(prefix_attention(shared, lane.prefix), list(ids), list(range(shared)), [shared - 1])
            lanes.append(lane)
        return lanes

    def _read(self, lane: _Lane, joined: list[tuple[int, Prompt]]) -> Iterator[tuple[int, list[int], bool]]:
        """Read prompts into free slots and choose the first token of each answer."""
        rows = [(number, prompt.draws, list(prompt.ids[lane.shared :])) for number, prompt in joined]
        while rows:
            tokens, count = 0, 0
            while count < len(rows) and (not count or tokens + len(rows[count][2]) <= _READ_TOKENS):
                tokens += len(rows[count][2])
                count += 1
            batch, rows = rows[:count], rows[count:]
            lengths = [len(ids) for _, _, ids in batch]
            ends = list(itertools.accumulate(lengths))
            positions = [lane.shared + place for length in lengths for place in range(length)]
            ids = [token for _, _, own in batch for token in own]
            logits = self._pass(lane.reading_attention(lengths), ids, positions, [end - 1 for end in ends])  # [n, V]
            lane.active += [_Active(number, draws, len(own), []) for number, draws, own in batch]
            yield from self._choose([(lane, len(lane.active) - count)], logits)

    def _write(self, lanes: list[_Lane]) -> Iterator[tuple[int, list[int], bool]]:
        """Add one token to every answer in progress."""
        rows = [(lane, row) for lane in lanes for row in lane.active]
        lengths = [torch.tensor([row.length for row in lane.active], device=self.model.device) for lane in lanes]  # [B] each
        logits = self._pass(
            _SlotAttention(list(zip(lanes, lengths, strict=True))),
            [row.answer[-1] for _, row in rows],
            [lane.shared + row.length for lane, row in rows],
            list(range(len(rows))),
            _WRITE_STEP,
        )  # [B, V]
        for _, row in rows:
            row.length += 1
        yield from self._choose([(lane, 0) for lane in lanes], logits)

    def _choose(self, lanes: list[tuple[_Lane, int]], logits: torch.Tensor) -> Iterator[tuple[int, list[int], bool]]:
        """Choose a token for the rows of each lane from ``first`` on; finished ones are yielded, and the last row moves to their slot."""
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

    def _pass(
        self, attention: AttentionPass, ids: list[int], positions: list[int], kept: list[int], step: int = _READ_STEP
    ) -> torch.Tensor:
        """Logits of the kept tokens, ``[n, V]`` float32."""
        device = self.model.device
        padding = [0] * (-len(ids) % step)
        input_ids = torch.tensor([ids + padding], device=device)  # [1, N]
        layers = range(int(self.model.config.get_text_config().num_hidden_layers))
        with torch.inference_mode(), attention.running(self.model, layers, (1, input_ids.shape[1])):
            output = self.model(
                input_ids=input_ids,
                position_ids=torch.tensor([positions + padding], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(kept, device=device),
            )
        return output.logits[0].float()

    def _plainly(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, list[int], bool]]:
        """Answer with transformers' own loop, for models whose attention cannot be replaced."""
        order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number].ids), number))
        size = self.slots(max((len(prompt.ids) for prompt in prompts), default=0) + self.sampling.max_new_tokens)
        for first in range(0, len(order), size):
            numbers = order[first : first + size]
            answers = plain_answers(self.model, [prompts[number] for number in numbers], self.end_ids, self.sampling)
            yield from ((number, answer, ended) for number, (answer, ended) in zip(numbers, answers, strict=True))


def slots_are_exact(model: PreTrainedModel) -> bool:
    """Whether slots give this model's own next tokens, tested with a prefix, three prompts and two tokens."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    prompts = [[token % vocabulary for token in ids] for ids in ([3, 5, 7, 11, 13, 17], [3, 5, 19, 23], [3, 5, 29, 31])]
    sampler = AnswerSampler(model, frozenset(), Sampling(0.0, 1.0, 2))
    tolerance = _TOLERANCE[str(model.dtype).removeprefix("torch.")]
    order = [prompts[1], prompts[2], prompts[0]]
    try:
        layers, heads, width = _shape(model)
        store = [torch.zeros(layers, 3, heads, _SEEN_STEP, width, dtype=model.dtype, device=model.device) for _ in range(2)]
        lane = _Lane(2, deque(), store[0], store[1])
        with replaced_attention(model):
            sampler._pass(prefix_attention(2, lane.prefix), prompts[0][:2], [0, 1], [1])  # noqa: SLF001  the same module
            tails = [token for ids in order for token in ids[2:]]
            read = sampler._pass(lane.reading_attention([2, 2, 4]), tails, [2, 3, 2, 3, 2, 3, 4, 5], [1, 3, 7])  # noqa: SLF001
            writing = _SlotAttention([(lane, torch.tensor([2, 2, 4], device=model.device))])
            written = sampler._pass(writing, [37 % vocabulary] * 3, [4, 4, 6], [0, 1, 2], _WRITE_STEP)  # noqa: SLF001
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
    """Length of the longest common prefix of all prompts that leaves each at least one token."""
    first, last = min(map(list, prompts)), max(map(list, prompts))  # in lexicographic order: what these share, all share
    limit = min(map(len, prompts)) - 1
    for position in range(limit):
        if first[position] != last[position]:
            return position
    return max(limit, 0)


def _shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """Number of layers and of key heads, and width of a head."""
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    return int(config.num_hidden_layers), int(getattr(config, "num_key_value_heads", None) or heads), int(width)


def _wants_more(lane: _Lane) -> bool:
    """Whether to read prompts now: some are waiting, and nothing is in progress or enough slots are free."""
    if not lane.waiting:
        return False
    enough = max(1, min(len(lane.waiting), round(lane.keys.shape[1] * _REFILL_SHARE)))
    return not lane.active or lane.free >= enough
