"""Texts as versions written in full or not at all."""

from __future__ import annotations

from pathlib import Path

from kedro_datasets import text
from kedro_datasets._typing import HTMLPreview

from embedding_adaptation.datasets.previews import markdown_preview, page_preview
from embedding_adaptation.datasets.versioned import OneFile


class TextDataset(OneFile, text.TextDataset):
    """``text.TextDataset``, with its arguments, and a preview."""

    def preview(self) -> HTMLPreview:
        """The report (``.md``) or the page (``.html``) as kedro-viz shows it."""
        path = Path(self._get_load_path())
        content = self.load()
        return page_preview(content, str(path)) if path.suffix == ".html" else markdown_preview(content)
