"""Tables of any length as catalog datasets."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro_datasets._typing import TablePreview

from embedding_adaptation.datasets.previews import ROWS, table_preview
from embedding_adaptation.datasets.versioned import LocalVersions
from embedding_adaptation.texts.stream import TableStream, TextStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from kedro.io import Version


class TableStreamDataset(LocalVersions["TableStream | pd.DataFrame", "TextStream | pd.DataFrame"]):
    """A parquet file that is written, and optionally read, piece by piece: the table need not fit into memory.

    Args:
        filepath: The file, on a local disk.
        texts: Whether to load a :class:`~embedding_adaptation.texts.stream.TextStream` (columns ``id`` and ``text``) instead of a frame.
        version: Load and save version; ``None`` turns versioning off.
        metadata: Arbitrary values for other tools.
    """

    def __init__(
        self, *, filepath: str, texts: bool = False, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self.metadata = metadata
        self._texts = texts
        super().__init__(PurePosixPath(filepath), version)

    def load(self) -> TextStream | pd.DataFrame:
        """A stream over the file, or all of it.

        Raises:
            DatasetError: If the file is missing or damaged.
        """
        import pandas as pd

        path = self.intact_path()
        return TextStream.of_parquet(path) if self._texts else pd.read_parquet(path)

    def save(self, data: TableStream | pd.DataFrame) -> None:
        """Write the table, in full or not at all."""
        if self.took(data):
            return
        stream = data if isinstance(data, TableStream) else TableStream.of(data)
        with self.replacing() as work:
            stream.write_parquet(work)

    def preview(self, nrows: int = ROWS, columns: Sequence[str] = ()) -> TablePreview:
        """The first rows, for kedro-viz; see :func:`.previews.table_preview`."""
        return table_preview(TableStream.of_parquet(Path(self._get_load_path()), rows=nrows).first(), columns)

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "texts": self._texts, "version": self._version}
