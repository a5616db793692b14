"""Reports as versions written in full or not at all, including optional reports of other pipelines."""

from __future__ import annotations

from typing import Any

from kedro_datasets import json
from kedro_datasets._typing import JSONPreview

from embedding_adaptation.datasets.previews import report_preview
from embedding_adaptation.datasets.versioned import OneFile


class JSONDataset(OneFile, json.JSONDataset):
    """``json.JSONDataset``, with its arguments, and a preview that is easier to read."""

    def preview(self) -> JSONPreview:
        """The report, for kedro-viz; see :func:`.previews.report_preview`."""
        return report_preview(self.load())


class OptionalReportDataset(JSONDataset):
    """A JSON mapping that loads as an empty one if none has been saved, so that a pipeline can run without the one that writes it.

    A version requested by name must exist. Takes the arguments of ``json.JSONDataset``.
    """

    optional = True  # a run may start without it

    def load(self) -> Any:
        """The report, or an empty mapping."""
        asked_for = self._version is not None and self._version.load
        return super().load() if asked_for or self.exists() else {}

    def preview(self) -> JSONPreview:
        """The report, for kedro-viz; nothing if none has been saved."""
        return super().preview() if self.exists() else JSONPreview("")
