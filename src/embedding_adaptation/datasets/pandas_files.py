"""Tables of pandas as versions written in full or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kedro_datasets import pandas
from kedro_datasets._typing import TablePreview

from embedding_adaptation.datasets.previews import ROWS, table_preview
from embedding_adaptation.datasets.versioned import OneFile
from embedding_adaptation.texts.stream import TableStream

if TYPE_CHECKING:
    from collections.abc import Sequence


class CSVDataset(OneFile, pandas.CSVDataset):
    """``pandas.CSVDataset``, with its arguments, and columns chosen for its preview."""

    def preview(self, nrows: int = ROWS, columns: Sequence[str] = ()) -> TablePreview:
        """The first rows, for kedro-viz; see :func:`.previews.table_preview`."""
        import pandas as pd

        first = super().preview(nrows)
        return table_preview(pd.DataFrame(first["data"], columns=first["columns"]), columns)


class ParquetDataset(OneFile, pandas.ParquetDataset):
    """``pandas.ParquetDataset``, with its arguments, and columns chosen for its preview."""

    def preview(self, nrows: int = ROWS, columns: Sequence[str] = ()) -> TablePreview:
        """The first rows, for kedro-viz; see :func:`.previews.table_preview`."""
        return table_preview(TableStream.of_parquet(Path(self._get_load_path()), rows=nrows).first(), columns)
