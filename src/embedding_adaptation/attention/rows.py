"""Recorded attention on disk: the last token's attention in every text, read one text at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROWS_FILE, INDEX_FILE, CARD_FILE = "rows.float32", "index.parquet", "card.json"
FORMAT = 1
_READ_AT_ONCE = 2048


class AttentionError(ValueError):
    """Attention that cannot be recorded or read; the message says why and what to do."""


@dataclass(frozen=True)
class TextAttention:
    """The attention of the last token of one prompted text.

    Attributes:
        id: The text's id.
        text: The text, as it was tokenised.
        row: ``[L, H, T]`` float32, attention of the last token to every token of the prompt, which sums to one over T; memory-mapped.
        text_start: Index of the text's first token in the prompt.
        spans: Half-open character span in ``text`` of each of its tokens that fit.
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
        """Index after the text's last token in the prompt."""
        return self.text_start + len(self.spans)


@dataclass(frozen=True)
class FrameTokens:
    """The tokens on one side of the text.

    Attributes:
        words: The characters of that side.
        spans: Half-open span of each token in ``words``; (-1, -1) for a special token.
        labels: How to display each token.
    """

    words: str
    spans: tuple[tuple[int, int], ...]
    labels: tuple[str, ...]


class AttentionRows:
    """A recording on disk, read one text at a time.

    Args:
        folder: A folder written by :class:`AttentionRecording`.

    Attributes:
        template: Name of the template.
        layer_count: Number of layers of the model.
        layers: The recorded layers, counted from 1.
        heads: The recorded heads, counted from 0.
        examples: Number of examples, which are the first texts.
        prefix: Tokens before each text.
        suffix: Tokens after each text.

    Raises:
        AttentionError: If the folder contains no recording.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
            version = card["format"]
        except (OSError, ValueError, KeyError) as error:
            msg = f"{folder} contains no attention recorded by this project ({error}); run attention_analysis again"
            raise AttentionError(msg) from error
        if version != FORMAT:
            msg = f"{folder} has format {version!r}, but this version reads {FORMAT}; run attention_analysis again"
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
            for batch in file.iter_batches(batch_size=_READ_AT_ONCE):
                for entry in batch.to_pylist():
                    size = height[0] * height[1] * entry["width"]
                    row = rows[entry["start"] : entry["start"] + size].reshape(*height, entry["width"])  # [L, H, T]
                    spans = tuple(zip(entry["from"], entry["to"], strict=True))
                    yield TextAttention(entry["id"], entry["text"], row, len(self.prefix.spans), spans, entry["cut"])
