from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedding_adaptation.cluster.blocks import read_texts, read_vectors, rejected_rows, write_blocks, write_vectors
from embedding_adaptation.cluster.settings import ClusterError

ROWS = [(f"id {number}", f"text {number}") for number in range(20)]


def finished(tmp_path, settings, rows=ROWS):
    blocks = list(write_blocks(rows, tmp_path / "job", "weights", settings))
    for block in blocks:
        texts = read_texts(block)
        write_vectors(block, texts, {"vector": np.array([[row.row, 1.0] for row in texts], np.float32)}, [])
    return blocks


def test_blocks_are_bounded_in_texts_and_in_size(tmp_path, settings):
    assert [block.rows for block in write_blocks(ROWS, tmp_path / "few", "weights", settings)] == [8, 8, 4]
    small = replace(settings, block_mb=100 / (1 << 20))
    sizes = [
        [len(row.text.encode()) for row in read_texts(block)] for block in write_blocks([(0, "é" * 30)] * 5, tmp_path / "small", "w", small)
    ]
    assert sizes == [[60]] * 5
    assert [block.rows for block in write_blocks([(0, "long" * 100), (1, "b")], tmp_path / "one", "w", small)] == [1, 1]


def test_vectors_come_back_in_the_order_of_the_texts(tmp_path, settings):
    blocks = finished(tmp_path, settings)
    assert all(block.is_finished() for block in blocks)
    assert np.concatenate([read_vectors(block)[0] for block in blocks]).tolist() == list(range(20))
    assert np.concatenate([read_vectors(block)[1]["vector"][:, 0] for block in blocks]).tolist() == list(range(20))
    schema = pq.read_schema(blocks[0].vectors)
    assert str(schema.field("vector").type) == "fixed_size_list<element: float>[2]"
    assert [name for block in blocks for name in pq.read_table(block.vectors)["id"].to_pylist()] == [name for name, _ in ROWS]


@pytest.mark.parametrize("change", ["text", "id", "weights"])
def test_finished_blocks_are_kept_only_for_the_same_texts_ids_and_weights(tmp_path, settings, change):
    finished(tmp_path, settings)
    rows, weights = list(ROWS), "weights"
    if change == "weights":
        weights = "others"
    else:
        rows[9] = ("id 9", "another") if change == "text" else ("another", "text 9")
    again = list(write_blocks(rows, tmp_path / "job", weights, settings))
    assert [block.is_finished() for block in again] == [change != "weights", False, change != "weights"]
    assert [block.texts.is_file() for block in again] == [True] * 3


@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_damaged_vectors_do_not_count_as_finished(tmp_path, settings, damage):
    block = finished(tmp_path, settings)[0]
    content = bytearray(block.vectors.read_bytes())
    if damage == "gone":
        block.vectors.unlink()
    else:
        place = content.find(np.array([0, 1, 1, 1], np.float32).tobytes())
        assert place > 0
        content[place + 3] ^= 1
        block.vectors.write_bytes(content[:-20] if damage == "cut" else content)
    assert not block.is_finished()
    with pytest.raises(ClusterError, match="only this block is computed again"):
        read_vectors(block)


def test_what_is_no_text_is_marked_with_its_reason(tmp_path, settings):
    rows = [(1, "good"), (2, None), (3, b"bytes"), (4, "half \ud800 a pair")]
    (block,) = write_blocks(rows, tmp_path / "job", "weights", settings)
    texts = read_texts(block)
    assert [row.problem for row in texts] == [
        "", "the text is None (NoneType), not a string", "the text is b'bytes' (bytes), not a string", "",
    ]  # fmt: skip
    assert texts[3].text == "half � a pair"
    usable = [row for row in texts if not row.problem]
    write_vectors(block, usable, {"vector": np.ones((2, 3), np.float32)}, [(row, row.problem) for row in texts if row.problem])
    assert rejected_rows(block) == 2
    assert read_vectors(block)[0].tolist() == [0, 3]
    assert pq.read_table(block.rejected)["id"].to_pylist() == ["2", "3"]
