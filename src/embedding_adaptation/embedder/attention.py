"""Where the last token looks: its attention row in every layer and head, without T x T maps.

``output_attentions=True`` needs the eager implementation and keeps ``L * H * T * T`` floats a text. Here the usual pass over packed rows
also computes one row of each map, the last token's: ``L * H * T`` floats a text, written to disk batch by batch.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_adaptation.atomic import replacing_folder
from embedding_adaptation.embedder.batching import token_budget_batches
from embedding_adaptation.embedder.decoder_pass import PackedDecoder, RowGroup, Wanted
from embedding_adaptation.embedder.prompt_tree import PromptTree
from embedding_adaptation.embedder.template import Frame, encode_with_spans

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.template import PromptTemplate

logger = logging.getLogger(__name__)

ROWS_FILE, INDEX_FILE, CARD_FILE = "rows.float32", "index.parquet", "card.json"
_FORMAT = 1
_WINDOW = 2048
_IMPLEMENTATION = "own_attention_and_last_row"


class AttentionError(ValueError):
    """Attention that cannot be recorded or read; the message says why and what to do."""


@dataclass(frozen=True)
class TextAttention:
    """Where the last token of one prompted text looks.

    Attributes:
        id: The text's id.
        text: The text, as it was tokenised.
        row: ``[L, H, T]`` float32, attention of the last token to every token of the prompt; adds up to one over T. Memory-mapped.
        text_start: Place of the text's first token in the prompt.
        spans: For each of the text's tokens that fit into the window its half-open span of characters in ``text``.
        cut: Whether the end of the text did not fit.
    """

    id: str
    text: str
    row: np.ndarray
    text_start: int
    spans: tuple[tuple[int, int], ...]
    cut: bool

    @property
    def text_end(self) -> int:
        """Place behind the text's last token in the prompt."""
        return self.text_start + len(self.spans)


@dataclass(frozen=True)
class FrameTokens:
    """The tokens on one side of the text.

    Attributes:
        words: The characters of that side.
        spans: For each token its half-open span in ``words``; a special token's is (-1, -1).
        labels: For each token how to write it.
    """

    words: str
    spans: tuple[tuple[int, int], ...]
    labels: tuple[str, ...]


class AttentionRecording:
    """A recording that is ready to be made: everything that can be wrong has been looked at, nothing has been computed.

    Args:
        embedder: Base or adapted embedder.
        template: The template the texts are put into.
        texts: Texts to look at; a generator is read as it is needed.
        ids: Their ids; ``None`` numbers them from 1.
        layers: Layers, counted from 1 or, negative, from the last; empty takes all.
        heads: Heads, counted from 0; empty takes all.
        examples: Further texts that come before the others and are told apart from them.
        progress: Whether to show a bar on stderr.

    Raises:
        AttentionError: If the model has no softmax attention in a layer asked for, or no such layer or head.
        TemplateError: If the template leaves no room for a text.

    Example:
        >>> recording = AttentionRecording(embedder, template, texts)  # doctest: +SKIP
        >>> rows = recording.write(Path("rows"))  # doctest: +SKIP
        >>> next(iter(rows)).row.shape  # doctest: +SKIP
        (30, 9, 27)
    """

    def __init__(
        self,
        embedder: Embedder,
        template: PromptTemplate,
        texts: Iterable[str],
        ids: Iterable[str] | None = None,
        *,
        layers: Sequence[int] = (),
        heads: Sequence[int] = (),
        examples: Sequence[str] = (),
        progress: bool = True,
    ) -> None:
        self.embedder, self.template, self.progress = embedder, template, progress
        self.layers = _resolved_layers(layers, embedder.layer_count)
        self.heads = _resolved_heads(heads, int(getattr(embedder.backbone.config, "num_attention_heads", 0)))
        self.frame = template.frame(embedder.tokenizer, embedder.max_length)
        self.examples = tuple(examples)
        names = map(str, ids) if ids is not None else map(str, itertools.count(1))
        shown = ((f"example {number}", text) for number, text in enumerate(self.examples, start=1))
        self._texts: Iterator[tuple[str, str]] = itertools.chain(shown, zip(names, texts, strict=ids is not None))
        self._rows = _packed_rows if embedder.can_pack() else _padded_rows
        if self._rows is _padded_rows:
            _check_attention(_plain_decoder(embedder), self.layers)

    def write(self, folder: Path) -> AttentionRows:
        """Make the recording, in memory that does not grow with the number of texts.

        Args:
            folder: An existing folder.

        Returns:
            What was recorded, memory-mapped.

        Raises:
            AttentionError: If there is no text.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq
        from tqdm.auto import tqdm

        text, number, numbers = pa.string(), pa.int64(), pa.list_(pa.int32())
        schema = pa.schema(
            [("id", text), ("text", text), ("start", number), ("width", number), ("cut", pa.bool_()), ("from", numbers), ("to", numbers)]
        )
        window_start, count, cut = 0, 0, 0
        with (
            (folder / ROWS_FILE).open("wb") as file,
            pq.ParquetWriter(folder / INDEX_FILE, schema) as index,
            tqdm(unit="text", desc=f"attention ({self.template.name})", disable=not self.progress) as bar,
        ):
            while window := list(itertools.islice(self._texts, _WINDOW)):
                encoded = [self._fitted(one) for one in encode_with_spans([text for _, text in window], self.embedder.tokenizer)]
                widths = [len(self.frame.prefix) + len(ids) + len(self.frame.suffix) for ids, _, _, _ in encoded]
                sizes = np.array(widths, np.int64) * len(self.layers) * len(self.heads)
                starts = window_start + np.concatenate([[0], sizes.cumsum()])  # [n + 1]
                for places, rows in self._rows(self, [ids for ids, _, _, _ in encoded]):
                    values = rows[:, :, list(self.heads)].float().cpu().numpy()  # [n, L, H, T]
                    for place, value in zip(places, values, strict=True):
                        file.seek(int(starts[place]) * value.itemsize)
                        file.write(np.ascontiguousarray(value).data)
                    bar.update(len(places))
                columns = {
                    "id": [name for name, _ in window],
                    "text": [one[2] for one in encoded],
                    "start": starts[:-1],
                    "width": widths,
                    "cut": [one[3] for one in encoded],
                    "from": [[first for first, _ in spans] for _, spans, _, _ in encoded],
                    "to": [[last for _, last in spans] for _, spans, _, _ in encoded],
                }
                index.write_table(pa.table(columns, schema=schema))
                window_start, count, cut = int(starts[-1]), count + len(window), cut + sum(one[3] for one in encoded)
        if not count:
            msg = "there is no text to record the attention of; give at least one"
            raise AttentionError(msg)
        if cut:
            logger.warning(
                "%d of %d texts are longer than max_length=%d leaves room for and were cut: words behind the cut get no attention",
                cut, count, self.embedder.max_length,
            )  # fmt: skip
        self._write_card(folder)
        return AttentionRows(folder)

    def _fitted(self, encoded: tuple[list[int], list[tuple[int, int]], str]) -> tuple[list[int], list[tuple[int, int]], str, bool]:
        ids, spans, text = encoded
        if not ids and not self.frame.prefix:
            from embedding_adaptation.embedder.template import fallback_id

            ids, spans = [fallback_id(self.embedder.tokenizer)], [(0, 0)]
        return ids[: self.frame.room], spans[: self.frame.room], text, len(ids) > self.frame.room

    def _write_card(self, folder: Path) -> None:
        card = {
            "format": _FORMAT,
            "template": self.template.name,
            "layer_count": self.embedder.layer_count,
            "layers": list(self.layers),
            "heads": list(self.heads),
            "examples": len(self.examples),
            "prefix": self._side(self.template.prefix, self.frame.prefix),
            "suffix": self._side(self.template.suffix, self.frame.suffix),
        }
        (folder / CARD_FILE).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _side(self, words: str, ids: Sequence[int]) -> dict[str, Any]:
        """The tokens of the prefix or suffix: special ones stand before the words' own or behind them."""
        tokenizer = self.embedder.tokenizer
        ((own, spans, words),) = encode_with_spans([words], tokenizer)
        leading = next((n for n in range(len(ids) - len(own) + 1) if list(ids[n : n + len(own)]) == own), 0) if own else len(ids)
        trailing = len(ids) - leading - len(own)
        full = [*[(-1, -1)] * leading, *spans, *[(-1, -1)] * trailing]
        return {"words": words, "spans": full, "labels": [tokenizer.decode([token]) for token in ids]}


def record_attention(
    embedder: Embedder, template: PromptTemplate, texts: Iterable[str], folder: str | Path, **options: Any
) -> AttentionRows:
    """Record the last token's attention of all texts, for all layers and heads.

    Args:
        embedder: Base or adapted embedder.
        template: The template the texts are put into.
        texts: Texts to look at.
        folder: Where the recording goes; what is there is replaced.
        **options: The other arguments of :class:`AttentionRecording`.

    Returns:
        The recording, memory-mapped.

    Raises:
        AttentionError: If the model has no softmax attention, there is no text, or no such layer or head.
    """
    recording = AttentionRecording(embedder, template, texts, **options)
    with replacing_folder(Path(folder)) as work:
        recording.write(work)
    return AttentionRows(Path(folder))


class AttentionRows:
    """A recording on disk, read text by text; only what is looked at comes into memory.

    Args:
        folder: A folder that :class:`AttentionRecording` wrote.

    Attributes:
        template: Name of the template.
        layer_count: Layers of the model.
        layers: Those recorded, counted from 1.
        heads: Heads, counted from 0.
        examples: How many of the first texts are examples.
        prefix: Tokens before each text.
        suffix: Tokens behind it.

    Raises:
        AttentionError: If the folder holds no recording.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
            found = card["format"]
        except (OSError, ValueError, KeyError) as error:
            msg = f"{folder} holds no recorded attention of this project ({error}); run attention_analysis again"
            raise AttentionError(msg) from error
        if found != _FORMAT:
            msg = f"{folder} has format {found!r}, this version reads {_FORMAT}; run attention_analysis again"
            raise AttentionError(msg)
        self.template: str = card["template"]
        self.layer_count: int = card["layer_count"]
        self.layers: tuple[int, ...] = tuple(card["layers"])
        self.heads: tuple[int, ...] = tuple(card["heads"])
        self.examples: int = card["examples"]
        self.prefix, self.suffix = (
            FrameTokens(side["words"], tuple((a, b) for a, b in side["spans"]), tuple(side["labels"]))
            for side in (card["prefix"], card["suffix"])
        )

    def __len__(self) -> int:
        import pyarrow.parquet as pq

        return int(pq.read_metadata(self.folder / INDEX_FILE).num_rows)

    def __iter__(self) -> Iterator[TextAttention]:
        import pyarrow.parquet as pq

        rows = np.memmap(self.folder / ROWS_FILE, np.float32, mode="r")
        height = len(self.layers), len(self.heads)
        with pq.ParquetFile(self.folder / INDEX_FILE) as file:
            for batch in file.iter_batches(batch_size=_WINDOW):
                for entry in batch.to_pylist():
                    size = height[0] * height[1] * entry["width"]
                    row = rows[entry["start"] : entry["start"] + size].reshape(*height, entry["width"])  # [L, H, T]
                    spans = tuple(zip(entry["from"], entry["to"], strict=True))
                    yield TextAttention(entry["id"], entry["text"], row, len(self.prefix.spans), spans, entry["cut"])


def _packed_rows(recording: AttentionRecording, text_ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Attention of texts' last tokens from packed rows: places of equally long texts and ``[n, L, H, T]``."""
    import torch

    embedder, layers = recording.embedder, recording.layers
    tree = PromptTree((recording.frame,))
    wanted = Wanted(hidden=frozenset(), last_rows=frozenset(layers))
    decoder = PackedDecoder(embedder.backbone)
    rows = [tree.row(ids) for ids in text_ids]
    with decoder.packing():
        prefix = decoder.read_prefix(tree.shared, PromptTree((Frame((), tree.shared, 1),)).layout(0), wanted)
        for batch in token_budget_batches([len(row) for row in rows], embedder.batch_tokens):
            groups, members, start = [], [], 0
            for width, alike in itertools.groupby(batch, key=lambda index: len(rows[index])):
                members.append(list(alike))
                groups.append(RowGroup(start, len(members[-1]), tree.layout(len(text_ids[members[-1][0]]))))
                start += len(members[-1]) * width
            result = decoder.run([rows[index] for index in batch], groups, prefix, wanted)
            for number, places in enumerate(members):
                yield places, torch.stack([result.last_rows[layer][number][:, :, 0] for layer in layers], dim=1)  # [n, L, H, T]


def _padded_rows(recording: AttentionRecording, text_ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The same for models that cannot be computed in packed rows."""
    import torch

    embedder = recording.embedder
    decoder, backbone = embedder.decoder(recording.template), _plain_decoder(embedder)
    prompts = [recording.frame.around(ids) for ids in text_ids]
    for batch in token_budget_batches([len(prompt) for prompt in prompts], embedder.batch_tokens):
        features = {key: value.to(backbone.device) for key, value in decoder.collate([prompts[index] for index in batch]).items()}
        with torch.inference_mode(), recorded_last_rows(backbone, features["attention_mask"], recording.layers) as recorder:
            decoder(features)
        rows = recorder.stacked(recording.layers)  # [B, L, H, T]
        for row, index in enumerate(batch):
            yield [index], rows[row : row + 1, :, :, : len(prompts[index])]


@dataclass
class LastRowRecorder:
    """The last tokens' attention in one pass over a padded batch.

    Attributes:
        last: ``[B]``, position of each sequence's last real token.
        layers: Layers that are wanted, counted from 1.
        rows: For each layer ``[B, H, T]`` float32.
        own: The model's own attention, or ``None`` for the eager one in its module.
    """

    last: torch.Tensor
    layers: frozenset[int]
    rows: dict[int, torch.Tensor] = field(default_factory=dict)
    own: Any = None

    def stacked(self, layers: Sequence[int]) -> torch.Tensor:
        """Rows of these layers, ``[B, L, H, T]``; zero at padding."""
        import torch

        return torch.stack([self.rows[layer] for layer in layers], dim=1)


_recorder: ContextVar[LastRowRecorder | None] = ContextVar("last_row_recorder", default=None)


@contextmanager
def recorded_last_rows(backbone: PreTrainedModel, attention_mask: torch.Tensor, layers: Iterable[int]) -> Iterator[LastRowRecorder]:
    """Record within one pass over a padded batch; padding may stand left or right, and hidden states are what they would be without.

    Args:
        backbone: A decoder without vocabulary head (not a PEFT model around it).
        attention_mask: ``[B, T]``, 1 on real tokens; the pass must get the same.
        layers: Layers to record, counted from 1.

    Raises:
        AttentionError: If the model does not let its attention be replaced.
    """
    import torch
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = backbone.config._attn_implementation  # noqa: SLF001  there is no public getter
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)  # [T]
    recorder = LastRowRecorder((attention_mask * positions).argmax(dim=1), frozenset(layers))
    if before != "eager":
        recorder.own = ALL_ATTENTION_FUNCTIONS[before]
    # Both registries: without its mask function an implementation silently runs without a mask.
    AttentionInterface.register(_IMPLEMENTATION, _own_attention_and_last_row)
    AttentionMaskInterface.register(_IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS[before])
    try:
        backbone.set_attn_implementation(_IMPLEMENTATION)
    except (ValueError, AttributeError) as error:
        msg = f"{type(backbone).__name__} does not let its attention be recorded ({error}); choose a model with softmax attention"
        raise AttentionError(msg) from error
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)
        backbone.set_attn_implementation(before)


def _own_attention_and_last_row(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The model's own attention, and the last tokens' rows for the recorder."""
    import torch

    recorder = _recorder.get()
    if recorder is None or kwargs.get("s_aux") is not None:
        msg = f"{type(module).__name__} has learned sinks, to which no token belongs; choose a model with plain softmax attention"
        raise AttentionError(msg)
    if module.layer_idx + 1 in recorder.layers:
        with torch.autocast(query.device.type, enabled=False):  # the row is small: keep it in float32
            recorder.rows[module.layer_idx + 1] = _last_row(
                query, key, attention_mask, recorder.last, scaling=kwargs.get("scaling"), softcap=kwargs.get("softcap")
            )
    own = recorder.own or sys.modules[type(module).__module__].eager_attention_forward
    return own(module, query, key, value, attention_mask, **kwargs)


def _last_row(
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    last: torch.Tensor,
    *,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention weights of each sequence's last token, ``[B, H, T]``."""
    import torch

    batch = torch.arange(query.shape[0], device=query.device)  # [B]
    asked = query[batch, :, last].float()  # [B, H, d]
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).float()  # [B, H, T, d]
    scores = torch.einsum("bhd,bhtd->bht", asked, keys) * (scaling if scaling is not None else query.shape[-1] ** -0.5)  # [B, H, T]
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is None:
        positions = torch.arange(key.shape[2], device=key.device)  # [T]
        allowed = positions[None, :] <= last[:, None]  # [B, T]
    else:
        row = attention_mask[batch if attention_mask.shape[0] > 1 else 0, 0, last]  # [B, T]
        allowed = row if row.dtype == torch.bool else row >= 0
    return scores.masked_fill(~allowed[:, None, :], float("-inf")).softmax(dim=-1)


def _check_attention(backbone: PreTrainedModel, layers: Sequence[int]) -> None:
    """Check on two tokens that the layers asked for have softmax attention.

    Raises:
        AttentionError: If one has not.
    """
    import torch

    ids = torch.zeros(1, 2, dtype=torch.long, device=backbone.device)  # [1, T]
    with torch.inference_mode(), recorded_last_rows(backbone, torch.ones_like(ids), layers) as recorder:
        backbone(input_ids=ids, use_cache=False)
    missing = [layer for layer in layers if layer not in recorder.rows]
    if missing:
        there = f"only layers {', '.join(map(str, sorted(recorder.rows)))} have it: name these" if recorder.rows else "choose another model"
        msg = f"{type(backbone).__name__} has no softmax attention in layer {missing[0]}, so there is no attention to look at; {there}"
        raise AttentionError(msg)


def _plain_decoder(embedder: Embedder) -> PreTrainedModel:
    """The decoder inside a PEFT model, or the decoder itself."""
    inner = getattr(embedder.backbone, "get_base_model", None)
    return inner() if inner else embedder.backbone


def _resolved_layers(layers: Sequence[int], count: int) -> tuple[int, ...]:
    resolved = [layer if layer > 0 else count + 1 + layer for layer in layers]
    wrong = [given for given, layer in zip(layers, resolved, strict=True) if given == 0 or not 1 <= layer <= count]
    if wrong:
        msg = f"layer {wrong[0]} was asked for; this model has the layers 1 to {count}, or -{count} to -1 from the last"
        raise AttentionError(msg)
    return tuple(sorted(set(resolved))) or tuple(range(1, count + 1))


def _resolved_heads(heads: Sequence[int], count: int) -> tuple[int, ...]:
    wrong = [head for head in heads if not 0 <= head < count]
    if wrong:
        msg = f"attention head {wrong[0]} was asked for; this model has the heads 0 to {count - 1}"
        raise AttentionError(msg)
    return tuple(sorted(set(heads))) or tuple(range(count))
