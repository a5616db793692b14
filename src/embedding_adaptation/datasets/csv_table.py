"""Small tables with texts as CSV files that read back unchanged."""

from __future__ import annotations

import csv
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro_datasets._typing import TablePreview

from embedding_adaptation.datasets.previews import ROWS, table_preview
from embedding_adaptation.datasets.versioned import LocalVersions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from kedro.io import Version


class CSVTableDataset(LocalVersions["pd.DataFrame", "pd.DataFrame"]):
    """A CSV file whose text columns read back unchanged, whatever the texts contain.

    ``pandas.CSVDataset`` reads a text "NA" as missing and "007" as a number, and before Python 3.11.9 and 3.12.3 a carriage return inside a
    text broke the table, because the writer did not put such a text into quotes. Here all texts are in quotes. Halves of characters (single
    surrogates), which UTF-8 does not have, are written as ``?``.

    Args:
        filepath: The file, on a local disk.
        texts: Names of the columns of texts, which are read as they are; ``*`` stands for any letters. In all other columns an empty field
            is a missing value.
        version: Load and save version; ``None`` turns versioning off.
        metadata: Arbitrary values for other tools.

    Example:
        .. code-block:: yaml

            cluster_summary:
              type: embedding_adaptation.datasets.csv_table.CSVTableDataset
              filepath: data/08_reporting/cluster_summary.csv
              texts: [name, words, nearest_*]
    """

    def __init__(
        self, *, filepath: str, texts: Sequence[str] = (), version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self.metadata = metadata
        self._texts = list(texts)
        super().__init__(PurePosixPath(filepath), version)

    def load(self) -> pd.DataFrame:
        """All rows."""
        return self._load()

    def save(self, data: pd.DataFrame) -> None:
        """Write the table, without its index."""
        if self.took(data):
            return
        with self.replacing() as work:
            data.to_csv(work, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n", encoding="utf-8", errors="replace")

    def preview(self, nrows: int = ROWS, columns: Sequence[str] = ()) -> TablePreview:
        """The first rows, for kedro-viz; see :func:`.previews.table_preview`."""
        return table_preview(self._load(nrows), columns)

    def _load(self, rows: int | None = None) -> pd.DataFrame:
        import pandas as pd

        path = self.intact_path()
        try:
            columns = [str(column) for column in pd.read_csv(path, nrows=0, encoding="utf-8")]
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
        texts = [column for column in columns if any(fnmatchcase(column, pattern) for pattern in self._texts)]
        missing: dict[str, list[str]] = {column: [""] for column in columns if column not in texts}
        return pd.read_csv(
            path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=missing, nrows=rows, encoding="utf-8", low_memory=False
        )

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "texts": self._texts, "version": self._version}
