"""Plotly figures as versions written in full or not at all."""

from __future__ import annotations

from kedro_datasets import plotly

from embedding_adaptation.datasets.versioned import OneFile


class JSONDataset(OneFile, plotly.JSONDataset):
    """``plotly.JSONDataset``, with its arguments."""
