"""One way from text to token ids: the same ids wherever the model sees a text."""

from __future__ import annotations

import pytest

from embedding_adaptation.attention.recording import record_attention
from embedding_adaptation.embedder.decoder_pass import PackedDecoder
from embedding_adaptation.embedder.export import prompting_tokenizer
from embedding_adaptation.embedder.modules import PromptedDecoder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.pipelines.contrastive_finetuning.setup import token_rows, training_pass_of

TEXTS = ["the bus is late.", ' "quoted" ', "water " * 90, '" means in one word: "', "{text}", "🎉 مرحبا"]
TEMPLATES = (
    PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "'),
    PromptTemplate("framed", "Cluster: {text}", bos=True, eos=True),
    PromptTemplate("ends", "{text} is"),
)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
def test_training_extraction_attention_and_export_see_the_same_ids(tiny_embedder, monkeypatch, tmp_path, template):
    expected = sorted(prompt.ids for prompt in template.tokenize(TEXTS, tiny_embedder.tokenizer, tiny_embedder.max_length))
    strategy = Strategy("a", template, "last")

    # Training: the rows that are made before the loop, behind the shared prefix.
    training_pass = training_pass_of(tiny_embedder, strategy, 0)
    rows = token_rows(TEXTS, template, tiny_embedder.tokenizer, training_pass)
    assert sorted((*training_pass.tree.shared, *row) for row in rows) == expected

    # Extraction, whose vectors evaluation scores: the shared prefix, then each row without what other templates add to it.
    tiny_embedder.can_pack()
    prefixes, extracted = [], []
    read_prefix, run = PackedDecoder.read_prefix, PackedDecoder.run
    monkeypatch.setattr(PackedDecoder, "read_prefix", lambda self, ids, *rest: prefixes.append(tuple(ids)) or read_prefix(self, ids, *rest))
    monkeypatch.setattr(
        PackedDecoder, "run", lambda self, rows, *rest, **o: extracted.extend(map(tuple, rows)) or run(self, rows, *rest, **o)
    )
    tiny_embedder.encode(TEXTS, strategy, progress=False)
    assert len(prefixes) == 1
    assert sorted(prefixes[0] + row for row in extracted) == expected

    # Attention analysis: packed, and padded where a model cannot be packed.
    prefixes.clear()
    extracted.clear()
    record_attention(tiny_embedder, template, TEXTS, tmp_path / "packed", progress=False)
    assert sorted(prefixes[0] + row for row in extracted) == expected
    looked_at = []
    forward = PromptedDecoder.forward
    monkeypatch.setattr(PromptedDecoder, "forward", lambda self, features: looked_at.append(features) or forward(self, features))
    tiny_embedder._packs = False
    record_attention(tiny_embedder, template, TEXTS, tmp_path / "padded", progress=False)
    rows = [(ids, mask) for features in looked_at for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True)]
    assert sorted(tuple(ids[mask.bool()].tolist()) for ids, mask in rows) == expected

    # The exported model.
    exported = prompting_tokenizer(
        tiny_embedder.tokenizer, template.frame(tiny_embedder.tokenizer, tiny_embedder.max_length), tiny_embedder.max_length
    )
    assert sorted(map(tuple, exported(TEXTS, truncation=True)["input_ids"])) == expected
