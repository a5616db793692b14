"""The last token's attention against the model's own eager maps, one unpadded text at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention_fixtures import FAMILIES, eager_rows, family
from embedding_adaptation.attention.recording import AttentionRecording, record_attention
from embedding_adaptation.attention.rows import AttentionError
from embedding_adaptation.embedder.decoder_pass import PackedDecoder
from embedding_adaptation.embedder.template import PromptTemplate

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
BARE = PromptTemplate("bare", "{text}")
FRAMED = PromptTemplate("framed", "{text} is", bos=True, eos=True)
TEXTS = ["the bus is late", "a house on the street and a garden behind it", "water", "who will come", "بيت 🎉", "water " * 60]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("packed", [True, False])
def test_rows_of_all_layers_and_heads_equal_eager_attention(tiny_embedder, tmp_path, name, packed):
    embedder = family(name, tiny_embedder.tokenizer)
    embedder._packs = packed
    rows = list(record_attention(embedder, ONE_WORD, TEXTS, tmp_path / "rows", progress=False))
    assert [row.text for row in rows] == TEXTS
    for row in rows:
        np.testing.assert_allclose(row.row, eager_rows(embedder, ONE_WORD, row.text), atol=1e-6)


@pytest.mark.parametrize("template", [BARE, FRAMED], ids=lambda template: template.name)
@pytest.mark.parametrize("batch_tokens", [16, 10_000])
def test_rows_do_not_depend_on_the_batch(tiny_embedder, tmp_path, template, batch_tokens):
    tiny_embedder.batch_tokens = batch_tokens
    for row in record_attention(tiny_embedder, template, [*TEXTS, ""], tmp_path / "rows", progress=False):
        np.testing.assert_allclose(row.row, eager_rows(tiny_embedder, template, row.text), atol=1e-6)


def test_recording_leaves_hidden_states_as_they_are(tiny_embedder, monkeypatch):
    """The same packed pass with and without the rows: bit for bit."""
    from dataclasses import replace

    plain = tiny_embedder.encode(TEXTS, progress=False)
    run = PackedDecoder.run
    with_rows = frozenset(range(1, tiny_embedder.layer_count + 1))
    monkeypatch.setattr(
        PackedDecoder, "run", lambda self, r, g, p, wanted, **o: run(self, r, g, p, replace(wanted, last_rows=with_rows), **o)
    )
    assert np.array_equal(tiny_embedder.encode(TEXTS, progress=False), plain)


def test_an_adapted_model_is_recorded_through_its_adapter(tiny_embedder, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = list(record_attention(tiny_embedder, ONE_WORD, TEXTS, tmp_path / "base", progress=False))
    torch.manual_seed(0)
    tiny_embedder.backbone = get_peft_model(tiny_embedder.backbone, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    for packed, folder in ((True, "packed"), (False, "padded")):
        tiny_embedder._packs = packed
        adapted = list(record_attention(tiny_embedder, ONE_WORD, TEXTS, tmp_path / folder, progress=False))
        assert max(np.abs(a.row - b.row).max() for a, b in zip(adapted, base, strict=True)) > 1e-3
        np.testing.assert_allclose(adapted[0].row.sum(axis=-1), 1.0, atol=1e-5)


def test_layers_and_heads_are_those_asked_for(tiny_embedder, tmp_path):
    full = list(record_attention(tiny_embedder, ONE_WORD, TEXTS[:2], tmp_path / "full", progress=False))
    some = record_attention(tiny_embedder, ONE_WORD, TEXTS[:2], tmp_path / "some", layers=[-1, 1], heads=[3, 0], progress=False)
    assert (some.layers, some.heads) == ((1, 3), (0, 3))
    for one, all_of_it in zip(some, full, strict=True):
        np.testing.assert_allclose(one.row, all_of_it.row[[0, 2]][:, [0, 3]], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [4]}, "unknown layer 4; this model has layers 1 to 3"),
        ({"layers": [0]}, "unknown layer 0"),
        ({"heads": [4]}, "unknown attention head 4; this model has heads 0 to 3"),
    ],
)
def test_a_layer_or_head_that_there_is_not_is_named(tiny_embedder, options, message):
    with pytest.raises(AttentionError, match=message):
        AttentionRecording(tiny_embedder, ONE_WORD, TEXTS, **options)


def test_spans_point_to_the_texts_own_characters_and_survive_cutting(tiny_embedder, tmp_path, caplog):
    rows = record_attention(tiny_embedder, ONE_WORD, TEXTS, tmp_path / "rows", ids="abcdef", examples=["a bus"], progress=False)
    assert len(rows) == len(TEXTS) + 1
    assert rows.examples == 1
    by_id = {row.id: row for row in rows}
    assert list(by_id) == ["example 1", *"abcdef"]
    house = by_id["b"]
    assert "".join(house.text[a:b] for a, b in house.spans).replace(" ", "") == house.text.replace(" ", "")
    assert house.row.shape[2] == len(rows.prefix.spans) + len(house.spans) + len(rows.suffix.spans)
    assert [row.id for row in rows if row.cut] == ["f"]
    assert by_id["f"].row.shape[2] == tiny_embedder.max_length
    assert "1 of 7 texts do not fit into max_length=64" in caplog.text
    assert "".join(rows.suffix.words[a:b] for a, b in rows.suffix.spans).replace(" ", "") == '"meansinoneword:"'


def test_special_tokens_are_told_from_the_templates_words(tiny_embedder, tmp_path):
    rows = record_attention(tiny_embedder, FRAMED, ["a bus"], tmp_path / "rows", progress=False)
    assert rows.prefix.labels == ("<s>",)
    assert rows.prefix.spans == ((-1, -1),)
    assert rows.suffix.labels[-1] == "</s>"
    assert rows.suffix.spans[-1] == (-1, -1)


def test_memory_does_not_grow_with_the_texts(tiny_embedder, tmp_path, monkeypatch):
    import embedding_adaptation.attention.recording as module

    monkeypatch.setattr(module, "_WINDOW", 3)
    read = []

    def texts():
        for number in range(8):
            read.append(number)
            yield f"bus {number}"

    recording = AttentionRecording(tiny_embedder, ONE_WORD, texts(), progress=False)
    assert read == []
    (tmp_path / "rows").mkdir()
    rows = recording.write(tmp_path / "rows")
    assert [row.text for row in rows] == [f"bus {number}" for number in range(8)]
    assert isinstance(next(iter(rows)).row.base, np.memmap)
    for row in rows:
        np.testing.assert_allclose(row.row, eager_rows(tiny_embedder, ONE_WORD, row.text), atol=1e-6)


def test_nothing_to_record_is_an_error(tiny_embedder, tmp_path):
    with pytest.raises(AttentionError, match="there are no texts"):
        record_attention(tiny_embedder, ONE_WORD, [], tmp_path / "rows", progress=False)
    assert not (tmp_path / "rows").exists()
