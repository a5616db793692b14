"""Every id has a row in the embedding, padding included, and no text gets other ids for it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from transformers import AutoTokenizer

from embedding_adaptation.embedder.base_model import BaseModelError, check_source, convert
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.export import export_sentence_transformer
from embedding_adaptation.embedder.tokenizer import load_tokenizer

TEXTS = ["the bus is late", "[PAD] water <image> house " * 3, "bus"]


@pytest.fixture
def folder(tiny_weights, tmp_path):
    """A copy of the tiny model's folder."""
    target = tmp_path / "model"
    shutil.copytree(tiny_weights.base, target)
    return target


def change_tokenizer(folder, change):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    change(tokenizer)
    tokenizer.save_pretrained(folder)


def without_special_tokens(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("bos_token", "eos_token", "pad_token"):
        config.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    description = json.loads((folder / "tokenizer.json").read_text()) | {"added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(description))
    model = json.loads((folder / "config.json").read_text()) | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(model))
    (folder / "generation_config.json").unlink()


def test_words_that_the_embedding_does_not_have_are_refused_with_their_ids(folder):
    change_tokenizer(folder, lambda tokenizer: tokenizer.add_tokens(["spanner", "boiler"]))
    with pytest.raises(BaseModelError, match=r"2 tokens beyond the embedding's 400 rows: 'spanner' \(400\), 'boiler' \(401\)"):
        check_source(str(folder))


def test_an_end_token_that_the_embedding_does_not_have_is_refused(folder, tmp_path):
    change_tokenizer(folder, lambda tokenizer: tokenizer.add_special_tokens({"eos_token": "<end>"}))
    (tmp_path / "out").mkdir()
    with pytest.raises(BaseModelError, match=r"'<end>' \(400\)"):
        convert(check_source(str(folder)), tmp_path / "out")


def test_special_tokens_that_no_text_needs_are_left_out_and_texts_that_spell_them_are_read(folder, tmp_path, tiny_weights):
    change_tokenizer(folder, lambda t: t.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["<image>"]}))
    source = check_source(str(folder))
    assert not source.direct
    (tmp_path / "out").mkdir()
    convert(source, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert max(tokenizer.get_vocab().values()) < 400
    assert tokenizer.pad_token_id < 400
    plain = AutoTokenizer.from_pretrained(tiny_weights.base)
    assert tokenizer(TEXTS)["input_ids"] == plain(TEXTS)["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "prepare", [without_special_tokens, lambda f: change_tokenizer(f, lambda t: t.add_special_tokens({"pad_token": "[PAD]"}))]
)
def test_texts_of_unequal_length_give_the_same_vectors_in_the_exported_model(folder, tmp_path, prepare, tiny_weights, monkeypatch):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = Embedder.load(tiny_weights, device="cpu", dtype="float32").encode(TEXTS, progress=False)
    prepare(folder)
    embedder = Embedder.load(str(folder), device="cpu", dtype="float32")
    np.testing.assert_allclose(embedder.encode(TEXTS, progress=False), expected, atol=1e-6)
    export_sentence_transformer(embedder, tmp_path / "exported")
    plain = SentenceTransformer(str(tmp_path / "exported"), device="cpu", model_kwargs={"dtype": "float32"})
    np.testing.assert_allclose(plain.encode(TEXTS, show_progress_bar=False), expected, atol=1e-5)


def test_a_tokenizer_without_special_tokens_gets_one_to_pad_with_that_no_text_spells(folder, tiny_weights):
    without_special_tokens(folder)
    tokenizer = load_tokenizer(folder, 400)
    assert tokenizer.pad_token.startswith("\u0120")
    assert tokenizer.pad_token_id < 400
    texts = ["the water and the street", "What? street,street", " street", "\n\n  العربية 🎉"]
    plain = AutoTokenizer.from_pretrained(tiny_weights.base)
    assert tokenizer(texts)["input_ids"] == plain(texts)["input_ids"]


def test_a_token_that_a_family_adds_by_itself_is_left_out(folder, tiny_weights):
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "qwen2"}
    (folder / "config.json").write_text(json.dumps(config))
    assert max(AutoTokenizer.from_pretrained(folder).get_vocab().values()) >= 400
    assert max(load_tokenizer(folder, 400).get_vocab().values()) < 400
