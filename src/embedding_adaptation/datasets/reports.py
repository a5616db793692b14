"""Reports as versions that are there in full or not at all, and those of other pipelines that are useful where they are there."""

from __future__ import annotations

from typing import Any

from kedro_datasets import json

from embedding_adaptation.datasets.versioned import OneFile


class JSONDataset(OneFile, json.JSONDataset):
    """``json.JSONDataset``, with its arguments."""


class OptionalReportDataset(JSONDataset):
    """A JSON mapping that loads as an empty one where none has been saved, so that a pipeline can run without the one that writes it.

    A version that is asked for by name has to be there. Arguments are those of ``json.JSONDataset``.
    """

    optional = True  # a run may start without it

    def load(self) -> Any:
        """The report, or an empty mapping."""
        asked_for = self._version is not None and self._version.load
        return super().load() if asked_for or self.exists() else {}
