"""Tables read in pieces, as often as needed."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Self

from embedding_adaptation.identity import TextsIdentity, text_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd
    import pyarrow.parquet as pq


class TableStream:
    """A table of any length, of which memory holds one piece at a time.

    Args:
        pieces: Starts reading from the first row and yields frames that all have the same columns.
    """

    def __init__(self, pieces: Callable[[], Iterator[pd.DataFrame]]) -> None:
        self._pieces = pieces

    @classmethod
    def of(cls, table: pd.DataFrame, rows: int = 10_000) -> Self:
        """Stream a table in memory, ``rows`` rows at a time."""
        return cls(lambda: (table.iloc[start : start + rows] for start in range(0, max(len(table), 1), rows)))

    @classmethod
    def of_parquet(cls, path: Path, rows: int = 10_000) -> Self:
        """Stream a parquet file, ``rows`` rows at a time."""

        def pieces() -> Iterator[pd.DataFrame]:
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                if not file.metadata.num_rows:
                    yield file.read().to_pandas()
                for batch in file.iter_batches(batch_size=rows):
                    yield batch.to_pandas()

        return cls(pieces)

    def pieces(self) -> Iterator[pd.DataFrame]:
        """Read from the first row, frame by frame."""
        return self._pieces()

    def first(self) -> pd.DataFrame:
        """The first piece."""
        return next(iter(self.pieces()))

    def table(self) -> pd.DataFrame:
        """All rows in one table, in memory."""
        import pandas as pd

        pieces = list(self.pieces())
        return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame()

    def write_parquet(self, path: Path) -> None:
        """Write all rows, piece by piece; a stream without pieces becomes a table without columns."""
        import pandas as pd

        with ParquetWriter(path) as writer:
            for piece in self.pieces():
                writer.write(piece)
            if not writer.written:
                writer.write(pd.DataFrame())


class ParquetWriter:
    """A parquet file written frame by frame; the first frame determines columns and types.

    Args:
        path: The file, created with the first frame.

    Attributes:
        written: Whether the file exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = False
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, frame: pd.DataFrame) -> None:
        """Append rows, without their index."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self._writer.schema if self._writer is not None else None
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema)
        self._writer.write_table(table)
        self.written = True

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


class TextStream(TableStream):
    """A stream of texts: string columns ``id`` and ``text``.

    Example:
        >>> import pandas as pd
        >>> stream = TextStream.of(pd.DataFrame({"id": ["1", "2"], "text": ["one", "two"]}))
        >>> [len(piece) for piece in stream.pieces()]
        [2]
        >>> stream.table()["text"].tolist()
        ['one', 'two']

    Attributes:
        name: Name of the texts for reports; may be empty.
    """

    name: str = ""

    def rows(self) -> Iterator[tuple[str, str]]:
        """Read the id and text of each row, from the first row."""
        for piece in self.pieces():
            yield from zip(piece["id"], piece["text"], strict=True)

    def identity(self) -> str:
        """Identity of the texts, in any order; see :class:`~embedding_adaptation.identity.TextsIdentity`."""
        identity = TextsIdentity()
        for piece in self.pieces():
            identity.update(piece["text"])
        return identity.hexdigest()

    def sample(self, count: int, seed: int = 0) -> pd.DataFrame:
        """Draw distinct texts at random, in the stream's order; all of them if there are no more than ``count``.

        The draw depends only on the texts and the seed, so that additional texts change it as little as possible.
        """
        import pandas as pd

        if count < 1:
            msg = f"cannot draw {count} texts; draw at least 1"
            raise ValueError(msg)
        drawn: list[tuple[int, int, str, str]] = []  # a heap with the largest digest first
        held: set[int] = set()
        for row, (text_id, text) in enumerate(self.rows()):
            digest = int.from_bytes(text_digest(f"{seed}/{text}", 8), "big")
            if digest in held or (len(drawn) == count and digest >= -drawn[0][0]):
                continue
            held.add(digest)
            entry = (-digest, row, text_id, text)
            if len(drawn) < count:
                heapq.heappush(drawn, entry)
            else:
                held.remove(-heapq.heappushpop(drawn, entry)[0])
        rows = sorted(drawn, key=lambda entry: entry[1])
        return pd.DataFrame({"id": [row[2] for row in rows], "text": [row[3] for row in rows]}, dtype=str)
