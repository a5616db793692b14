from __future__ import annotations

import logging

import psutil
import pytest

from embedding_adaptation import memory
from embedding_adaptation.errors import is_self_explanatory, sentence
from embedding_adaptation.memory import OutOfMemoryError, available_memory, check_memory


def test_a_containers_limit_counts_where_it_is_lower(tmp_path):
    free = psutil.virtual_memory().available
    assert available_memory(tmp_path) == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert available_memory(tmp_path) == 300
    (tmp_path / "memory.max").write_text("500\n")
    assert available_memory(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == pytest.approx(free, rel=0.2)


def test_what_does_not_fit_is_refused_with_numbers_and_the_way_out(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000_000)
    with pytest.raises(OutOfMemoryError) as refused:
        check_memory(6_000_000_000, "the neighbours of 1,000,000 texts", "lower max_texts")
    assert is_self_explanatory(refused.value)
    assert "1,000,000 texts would take 6.0 GB of memory, and 2.0 GB are available; lower max_texts" in sentence(refused.value)


def test_what_fits_is_said_if_it_is_much(monkeypatch, caplog):
    monkeypatch.setattr(memory, "available_memory", lambda: 8_000_000_000)
    with caplog.at_level(logging.INFO):
        check_memory(1_000_000, "a little", "nothing")
        check_memory(6_000_000_000, "the neighbours of 1,000,000 texts", "nothing")
    assert [record.getMessage() for record in caplog.records] == [
        "the neighbours of 1,000,000 texts take 6.0 GB of memory, of which 8.0 GB are available"
    ]
