from __future__ import annotations

import pandas as pd
import pytest

from embedding_adaptation.texts.stream import ParquetWriter, TableStream, TextStream

TABLE = pd.DataFrame({"id": [str(n) for n in range(50)], "text": [f"text {n % 40}" for n in range(50)]})


def test_a_stream_can_be_read_again_and_in_any_pieces():
    for rows in (1, 7, 1000):
        stream = TextStream.of(TABLE, rows)
        for _ in range(2):
            pd.testing.assert_frame_equal(stream.table(), TABLE)
    assert list(TextStream.of(TABLE, 7).rows())[:2] == [("0", "text 0"), ("1", "text 1")]
    assert TextStream.of(TABLE.head(0)).table().empty


def test_a_draw_is_of_different_texts_in_order_and_whatever_the_pieces():
    one, other = (TextStream.of(TABLE, rows).sample(10, seed=1) for rows in (3, 1000))
    pd.testing.assert_frame_equal(one, other)
    assert one["text"].is_unique
    assert one["id"].astype(int).is_monotonic_increasing
    assert one["text"].tolist() != TextStream.of(TABLE).sample(10, seed=2)["text"].tolist()
    assert len(TextStream.of(TABLE).sample(100)) == 40


def test_a_draw_changes_little_with_a_few_more_texts():
    more = pd.concat([TABLE, pd.DataFrame({"id": ["x"], "text": ["new"]})])
    before, after = (set(TextStream.of(table).sample(10)["text"]) for table in (TABLE, more))
    assert len(before & after) >= 9


def test_an_empty_draw_is_refused():
    with pytest.raises(ValueError, match="cannot draw 0 texts"):
        TextStream.of(TABLE).sample(0)


def test_tables_go_to_parquet_and_back_piece_by_piece(tmp_path):
    for rows in (7, 1000):
        TableStream.of(TABLE, rows).write_parquet(tmp_path / "t.parquet")
        back = TextStream.of_parquet(tmp_path / "t.parquet", rows=9)
        pd.testing.assert_frame_equal(back.table(), TABLE, check_dtype=False)
        assert len(list(back.pieces())) == 6
    TableStream.of(TABLE.head(0)).write_parquet(tmp_path / "e.parquet")
    assert list(TableStream.of_parquet(tmp_path / "e.parquet").table().columns) == ["id", "text"]
    TableStream(lambda: iter(())).write_parquet(tmp_path / "n.parquet")
    assert TableStream.of_parquet(tmp_path / "n.parquet").table().empty


def test_the_first_frame_decides_columns_and_types(tmp_path):
    path = tmp_path / "t.parquet"
    with ParquetWriter(path) as writer:
        assert not writer.written
        assert not path.exists()
        writer.write(pd.DataFrame({"a": ["x"], "b": [1.0]}, index=[7]))
        writer.write(pd.DataFrame({"a": [None], "b": [2.0]}))
        with pytest.raises((KeyError, ValueError)):
            writer.write(pd.DataFrame({"a": ["y"]}))
    assert writer.written
    table = pd.read_parquet(path)
    assert table["b"].tolist() == [1.0, 2.0]
    assert table.index.tolist() == [0, 1]
