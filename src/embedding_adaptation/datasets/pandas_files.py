"""Tables of pandas as versions written in full or not at all."""

from __future__ import annotations

from kedro_datasets import pandas

from embedding_adaptation.datasets.versioned import OneFile


class CSVDataset(OneFile, pandas.CSVDataset):
    """``pandas.CSVDataset``, with its arguments."""


class ParquetDataset(OneFile, pandas.ParquetDataset):
    """``pandas.ParquetDataset``, with its arguments."""
