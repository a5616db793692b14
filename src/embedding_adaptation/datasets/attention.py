"""Recorded attention as a catalog dataset."""

from __future__ import annotations

from pathlib import Path

from embedding_adaptation.attention.recording import AttentionRecording
from embedding_adaptation.attention.rows import AttentionRows
from embedding_adaptation.datasets.directory import DirectoryDataset


class AttentionRowsDataset(DirectoryDataset[AttentionRecording, AttentionRows]):
    """A directory with the last token's attention for every text: a memory-mapped file of numbers, an index and a card.

    Saving makes the recording: rows are written batch by batch and are never all in memory.
    """

    def read_directory(self, directory: Path) -> AttentionRows:
        """Open the recording; rows are read on access."""
        return AttentionRows(directory)

    def write_directory(self, data: AttentionRecording, directory: Path) -> None:
        """Make the recording."""
        data.write(directory)
