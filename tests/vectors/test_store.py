from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from embedding_adaptation.vectors.store import VectorError, VectorStore, mapped_array


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)


def parts_on_disk(matrix, folder):
    files = []
    for number, (start, stop) in enumerate([(0, 40), (40, 41), (41, 100)]):
        files.append(folder / f"{number}.safetensors")
        save_file({"vectors": matrix[start:stop]}, files[-1], metadata={"fingerprint": "x"})
    return files


def test_blocks_over_several_files_are_the_unit_vectors_in_their_order(matrix, tmp_path):
    store = VectorStore.of_files(parts_on_disk(matrix, tmp_path))
    starts, blocks = zip(*store.blocks(16), strict=True)
    np.testing.assert_allclose(np.concatenate(blocks), unit(matrix), atol=1e-6)
    assert list(starts) == [0, 16, 32, 40, 41, 57, 73, 89]
    assert (store.rows, store.dimension) == (100, 8)


@pytest.mark.parametrize("window", [7, 1000])
def test_rows_come_in_the_order_asked_for_whatever_the_window(matrix, tmp_path, monkeypatch, window):
    monkeypatch.setattr("embedding_adaptation.vectors.store._WINDOW", window)
    np.save(tmp_path / "a.npy", matrix)
    rows = np.array([99, 0, 40, 41, 41, 3])
    for store in (
        VectorStore.of(matrix),
        VectorStore.of_files([tmp_path / "a.npy"]),
        VectorStore.of_files(parts_on_disk(matrix, tmp_path)),
    ):
        np.testing.assert_allclose(store.take(rows), unit(matrix)[rows], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_read_as_float32(matrix, tmp_path, dtype):
    np.save(tmp_path / "a.npy", matrix.astype(dtype))
    taken = VectorStore.of_files([tmp_path / "a.npy"]).take(np.arange(100))
    assert taken.dtype == np.float32
    np.testing.assert_allclose(taken, unit(matrix), atol=2e-3)


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (0.0, "zero")])
def test_vectors_without_direction_are_named_by_row(matrix, value, what):
    matrix[[17, 60]] = value
    with pytest.raises(VectorError, match=rf"vectors of 2 of these 100 texts are {what} \(row 18, 61, counted from 1\)"):
        list(VectorStore.of(matrix).blocks(1000))
    with pytest.raises(VectorError, match=r"row 61,"):
        VectorStore.of(matrix).take(np.array([5, 60]))


def test_the_given_matrix_is_not_changed(matrix):
    before = matrix.copy()
    VectorStore.of(matrix).take(np.arange(3))
    next(VectorStore.of(matrix).blocks(10))
    np.testing.assert_array_equal(matrix, before)


def test_files_that_hold_no_matrix_are_named_with_the_reason(matrix, tmp_path):
    np.save(tmp_path / "ints.npy", np.arange(4).reshape(2, 2))
    np.save(tmp_path / "columns.npy", np.asfortranarray(matrix))
    np.save(tmp_path / "flat.npy", matrix[0])
    (tmp_path / "text.npy").write_text("no numbers")
    save_file({"a": matrix, "b": matrix}, tmp_path / "two.safetensors")
    save_file({"a": np.arange(4)}, tmp_path / "ints.safetensors")
    (tmp_path / "short.safetensors").write_bytes(b"\xff" * 9)
    np.save(tmp_path / "cut.npy", matrix)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-40])
    reasons = {
        "ints.npy": "its numbers are int64", "columns.npy": "by columns", "flat.npy": r"its shape is \[8\]", "text.npy": "magic",
        "two.safetensors": "2 tensors", "ints.safetensors": "numbers are I64", "short.safetensors": "header is longer",
        "cut.npy": "shorter than its header", "none.npy": "does not exist",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(VectorError, match=reason):
            mapped_array(tmp_path / name)


def test_no_vectors_and_vectors_of_different_widths_are_refused(matrix, tmp_path):
    with pytest.raises(VectorError, match="no vectors"):
        VectorStore.of(matrix[:0])
    np.save(tmp_path / "a.npy", matrix)
    np.save(tmp_path / "b.npy", matrix[:, :3])
    with pytest.raises(VectorError, match="different widths: 3, 8"):
        VectorStore.of_files([tmp_path / "a.npy", tmp_path / "b.npy"])
