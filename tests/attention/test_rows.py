from __future__ import annotations

import json

import pytest

from embedding_adaptation.attention.recording import record_attention
from embedding_adaptation.attention.rows import CARD_FILE, AttentionError, AttentionRows
from embedding_adaptation.embedder.template import PromptTemplate

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')


def test_a_folder_that_holds_no_recording_is_named(tiny_embedder, tmp_path):
    with pytest.raises(AttentionError, match="contains no attention recorded"):
        AttentionRows(tmp_path)
    record_attention(tiny_embedder, ONE_WORD, ["bus"], tmp_path / "rows", progress=False)
    card = json.loads((tmp_path / "rows" / CARD_FILE).read_text())
    (tmp_path / "rows" / CARD_FILE).write_text(json.dumps(card | {"format": 9}))
    with pytest.raises(AttentionError, match="format 9"):
        AttentionRows(tmp_path / "rows")
