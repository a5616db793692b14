"""Texts as versions written in full or not at all."""

from __future__ import annotations

from kedro_datasets import text

from embedding_adaptation.datasets.versioned import OneFile


class TextDataset(OneFile, text.TextDataset):
    """``text.TextDataset``, with its arguments."""
