"""Where the last token looks: its attention row in every layer and head, without T x T maps.

``output_attentions=True`` needs the eager implementation and keeps ``L * H * T * T`` floats per text. Here the usual pass over packed rows
also computes one row of each map, the last token's: ``L * H * T`` floats per text, written to disk batch by batch.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from embedding_adaptation.atomic import replacing_folder
from embedding_adaptation.attention.rows import CARD_FILE, FORMAT, INDEX_FILE, ROWS_FILE, AttentionError, AttentionRows
from embedding_adaptation.embedder.template import encode_with_spans, fallback_id

if TYPE_CHECKING:
    from tqdm.auto import tqdm

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.template import PromptTemplate

logger = logging.getLogger(__name__)

_WINDOW = 2048


class _FittedText(NamedTuple):
    ids: list[int]
    spans: list[tuple[int, int]]
    text: str
    cut: bool


class AttentionRecording:
    """A recording that is checked and ready to be made; nothing has been computed yet.

    Args:
        embedder: Base or adapted embedder.
        template: The template the texts are put into.
        texts: The texts; a generator is consumed lazily.
        ids: Their ids; ``None`` numbers them from 1.
        layers: Layers, counted from 1, or backwards from -1; empty records all.
        heads: Heads, counted from 0; empty records all.
        examples: Additional texts, which come first and are kept apart from the others.
        progress: Whether to show a progress bar on stderr.

    Raises:
        AttentionError: If a requested layer has no softmax attention, or the model has no such layer or head.
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
        from embedding_adaptation.attention import last_rows  # brings torch, and Kedro imports this module at start

        self._last_rows = last_rows.packed_last_rows if embedder.can_pack() else last_rows.padded_last_rows
        if not embedder.can_pack():
            last_rows.check_softmax_attention(embedder.backbone, self.layers)

    def write(self, folder: Path) -> AttentionRows:
        """Make the recording, with memory use independent of the number of texts.

        Args:
            folder: An existing folder.

        Returns:
            The recording, memory-mapped.

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
        start, count, cut = 0, 0, 0
        with (
            (folder / ROWS_FILE).open("wb") as file,
            pq.ParquetWriter(folder / INDEX_FILE, schema) as index,
            tqdm(unit="text", desc=f"attention ({self.template.name})", disable=not self.progress) as bar,
        ):
            while window := list(itertools.islice(self._texts, _WINDOW)):
                fitted = [self._fitted(*one) for one in encode_with_spans([text for _, text in window], self.embedder.tokenizer)]
                widths = [len(self.frame.prefix) + len(one.ids) + len(self.frame.suffix) for one in fitted]
                starts = start + np.cumsum([0, *widths], dtype=np.int64) * len(self.layers) * len(self.heads)  # [n + 1]
                self._write_rows(file, starts, [one.ids for one in fitted], bar)
                columns = {
                    "id": [name for name, _ in window],
                    "text": [one.text for one in fitted],
                    "start": starts[:-1],
                    "width": widths,
                    "cut": [one.cut for one in fitted],
                    "from": [[first for first, _ in one.spans] for one in fitted],
                    "to": [[last for _, last in one.spans] for one in fitted],
                }
                index.write_table(pa.table(columns, schema=schema))
                start, count, cut = int(starts[-1]), count + len(window), cut + sum(one.cut for one in fitted)
        if not count:
            msg = "there are no texts whose attention could be recorded; give at least one"
            raise AttentionError(msg)
        if cut:
            logger.warning(
                "%d of %d texts do not fit into max_length=%d and were truncated: words after the cut get no attention",
                cut, count, self.embedder.max_length,
            )  # fmt: skip
        self._write_card(folder)
        return AttentionRows(folder)

    def _write_rows(self, file: BinaryIO, starts: np.ndarray, text_ids: Sequence[Sequence[int]], bar: tqdm[Any]) -> None:
        """Write each text's row to its place in the file, which follows the order of the texts, not that of the batches."""
        for places, rows in self._last_rows(self.embedder, self.template, self.layers, text_ids):
            values = rows[:, :, list(self.heads)].float().cpu().numpy()  # [n, L, H, T]
            for place, value in zip(places, values, strict=True):
                file.seek(int(starts[place]) * value.itemsize)
                file.write(np.ascontiguousarray(value).data)
            bar.update(len(places))

    def _fitted(self, ids: list[int], spans: list[tuple[int, int]], text: str) -> _FittedText:
        """A text's tokens, truncated to the available room; an empty text without a prefix gets one token."""
        if not ids and not self.frame.prefix:
            ids, spans = [fallback_id(self.embedder.tokenizer)], [(0, 0)]
        room = self.frame.room
        return _FittedText(ids[:room], spans[:room], text, len(ids) > room)

    def _write_card(self, folder: Path) -> None:
        card = {
            "format": FORMAT,
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
        """The tokens of the prefix or suffix; special ones precede or follow those of the words."""
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
        texts: The texts.
        folder: The folder for the recording; an existing one is replaced.
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


def _resolved_layers(layers: Sequence[int], count: int) -> tuple[int, ...]:
    resolved = [layer if layer > 0 else count + 1 + layer for layer in layers]
    wrong = [requested for requested, layer in zip(layers, resolved, strict=True) if requested == 0 or not 1 <= layer <= count]
    if wrong:
        msg = f"unknown layer {wrong[0]}; this model has layers 1 to {count}, or -{count} to -1 counted from the end"
        raise AttentionError(msg)
    return tuple(sorted(set(resolved))) or tuple(range(1, count + 1))


def _resolved_heads(heads: Sequence[int], count: int) -> tuple[int, ...]:
    wrong = [head for head in heads if not 0 <= head < count]
    if wrong:
        msg = f"unknown attention head {wrong[0]}; this model has heads 0 to {count - 1}"
        raise AttentionError(msg)
    return tuple(sorted(set(heads))) or tuple(range(count))
