"""Recorded attention as a catalog dataset."""

from __future__ import annotations

from pathlib import Path

from embedding_adaptation.attention.recording import AttentionRecording
from embedding_adaptation.attention.rows import AttentionRows
from embedding_adaptation.datasets.directory import DirectoryDataset


class AttentionRowsDataset(DirectoryDataset[AttentionRecording, AttentionRows]):
    """A directory with the last token's attention of every text: one memory-mapped file of numbers, an index and a card.

    Saving makes the recording: rows go to disk batch by batch and are never held in memory together.
    """

    def read_directory(self, directory: Path) -> AttentionRows:
        """Open the recording; only what is looked at is read."""
        return AttentionRows(directory)

    def write_directory(self, data: AttentionRecording, directory: Path) -> None:
        """Make the recording."""
        data.write(directory)
