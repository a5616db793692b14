from __future__ import annotations

import logging

import numpy as np
import torch

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.reference import encode_one_by_one, packing_is_exact
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

TEMPLATES = (PromptTemplate("bare", "{text}"), PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "'))
TEXTS = ["the bus is late", "please give back the book", "bus"]


def test_the_reference_is_the_model_itself(tiny_embedder):
    strategy = Strategy("a", TEMPLATES[1], "last", (2,), normalise=False)
    vectors = {"a": np.zeros((3, 32), np.float32)}
    encode_one_by_one(tiny_embedder, TEXTS, [strategy], vectors)
    for text, vector in zip(TEXTS, vectors["a"], strict=True):
        ids = torch.tensor([TEMPLATES[1].tokenize([text], tiny_embedder.tokenizer, 64)[0].ids])
        with torch.inference_mode():
            hidden = tiny_embedder.backbone(ids, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(vector, hidden[2][0, -1], atol=1e-6)


def test_packing_that_gives_other_results_is_noticed(tiny_embedder, monkeypatch):
    import embedding_adaptation.embedder.attention_swap as module

    assert packing_is_exact(tiny_embedder)
    plain = module.plain_attention
    monkeypatch.setattr(module, "plain_attention", lambda q, k, v, mask, **more: plain(q, k, v, mask * 0, **more).nan_to_num())
    assert not packing_is_exact(tiny_embedder)


def test_a_model_that_mixes_tokens_otherwise_is_computed_text_by_text(tiny_embedder, caplog):
    import transformers

    config = transformers.MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4)
    torch.manual_seed(0)
    embedder = Embedder(transformers.AutoModel.from_config(config).eval(), tiny_embedder.tokenizer, max_length=64)
    embedder.backbone.config.num_attention_heads = 1
    strategy = Strategy("a", TEMPLATES[1], "last", (-1,))
    with caplog.at_level(logging.WARNING):
        vectors = embedder.encode(TEXTS[:3], strategy, progress=False)
    assert "embedded one by one" in caplog.text
    ids = strategy.template.tokenize(TEXTS[:1], embedder.tokenizer, 64)[0].ids
    with torch.inference_mode():
        expected = embedder.backbone(torch.tensor([ids])).last_hidden_state[0, -1]
    np.testing.assert_allclose(vectors[0], expected / expected.norm(), atol=1e-5)
