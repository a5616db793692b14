from __future__ import annotations

import pytest
from kedro.io.core import DatasetError, Version

from embedding_adaptation.attention.recording import AttentionRecording
from embedding_adaptation.attention.rows import AttentionRows
from embedding_adaptation.datasets.attention import AttentionRowsDataset
from embedding_adaptation.embedder.template import PromptTemplate

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')


def test_saving_makes_the_recording_in_full_or_not_at_all(tiny_embedder, tmp_path):
    dataset = AttentionRowsDataset(filepath=str(tmp_path / "rows"), version=Version(None, "1"))
    dataset.save(AttentionRecording(tiny_embedder, ONE_WORD, ["the bus", "water"], progress=False))
    rows = dataset.load()
    assert isinstance(rows, AttentionRows)
    assert [one.text for one in rows] == ["the bus", "water"]

    def broken():
        yield "the bus"
        raise RuntimeError("no more texts")

    unfinished = AttentionRowsDataset(filepath=str(tmp_path / "broken"), version=Version(None, "1"))
    with pytest.raises(DatasetError, match="no more texts"):
        unfinished.save(AttentionRecording(tiny_embedder, ONE_WORD, broken(), progress=False))
    assert not unfinished.exists()
    assert not list(tmp_path.rglob("*/broken/*"))
