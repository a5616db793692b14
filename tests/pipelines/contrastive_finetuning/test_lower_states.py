from __future__ import annotations

import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.lower_states import LowerStates

WIDTH = 4096
MB_ROWS = 64  # rows of one token that fill a megabyte in float32


def compute(rows, calls):
    calls.extend(rows)
    return [torch.full((len(row), WIDTH), float(row[0])) for row in rows]


def states(calls, **changes):
    return LowerStates(lambda rows: compute(rows, calls), **({"memory_mb": 1} | changes))


def rows_of(count):
    return [(number,) for number in range(count)]


def check(found, rows):
    assert all(torch.equal(state, torch.full((len(row), WIDTH), float(row[0]))) for state, row in zip(found, rows, strict=True))


def test_a_row_is_computed_once_however_often_it_is_asked_for():
    calls = []
    store = states(calls)
    rows = [(3,), (5, 6), (3,)]
    check(store.of(rows), rows)
    check(store.of(rows[1:]), rows[1:])
    assert sorted(calls) == [(3,), (5, 6)]
    assert (store.rows_computed, store.rows_read) == (2, 3)


def test_what_exceeds_the_memory_is_computed_again():
    calls = []
    store = states(calls)
    rows = rows_of(MB_ROWS + 10)
    for _ in range(2):
        check(store.of(rows), rows)
    assert len(calls) == len(rows) + 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_exceeds_the_memory_goes_to_disk_and_comes_back_as_it_was(tmp_path, dtype):
    calls = []
    store = LowerStates(
        lambda rows: [state.to(dtype) for state in compute(rows, calls)], memory_mb=1, disk_mb=8, folder=tmp_path, batch_tokens=16
    )
    rows = rows_of(4 * MB_ROWS)
    for _ in range(2):
        found = store.of(rows)
        assert {state.dtype for state in found} == {dtype}
        assert torch.equal(torch.cat(found)[:, 0].float(), torch.arange(4.0 * MB_ROWS).to(dtype).float())
    assert len(calls) == len(rows)
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_speed_and_not_the_run(tmp_path, caplog):
    calls = []
    store = states(calls, disk_mb=8, folder=tmp_path / "not there")
    rows = rows_of(MB_ROWS + 3)
    for _ in range(2):
        check(store.of(rows), rows)
    assert caplog.text.count("no longer cached on disk") == 1
    assert len(calls) == len(rows) + 3


@pytest.mark.parametrize("way", ["flipped", "cut", "gone"])
def test_states_that_are_damaged_on_disk_are_computed_again(tmp_path, way, caplog):
    calls = []
    store = states(calls, disk_mb=8, folder=tmp_path)
    rows = rows_of(MB_ROWS + 3)
    check(store.of(rows), rows)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content if way == "flipped" else content[:100])
    if way == "gone":
        file.unlink()
    for _ in range(3):
        check(store.of(rows), rows)
    assert "are damaged and are computed again" in caplog.text
    assert len(calls) == len(rows) + 2 * (1 if way == "flipped" else 3)  # at once, and to be stored again


def test_what_was_computed_elsewhere_is_not_computed_again():
    calls = []
    store = states(calls)
    rows = rows_of(6)
    known = dict(zip(rows[:4], states([]).of(rows[:4]), strict=True))
    store.known = lambda asked: [known.get(row) for row in asked]
    for _ in range(2):
        check(store.of(rows), rows)
    assert len(calls) == 2
