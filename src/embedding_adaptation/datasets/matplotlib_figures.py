"""Matplotlib figures as versions written in full or not at all."""

from __future__ import annotations

from kedro_datasets import matplotlib

from embedding_adaptation.datasets.versioned import OneFile


class MatplotlibDataset(OneFile, matplotlib.MatplotlibDataset):
    """``matplotlib.MatplotlibDataset`` of one figure, with its arguments."""
