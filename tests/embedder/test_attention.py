from __future__ import annotations

import numpy as np
import torch

from embedding_adaptation.embedder.attention import SEGMENTS, attention_shares
from embedding_adaptation.embedder.template import PromptTemplate

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
TEXTS = ["the bus is late", "a house on the street and a garden behind it", "water", "who will come"]


def slow_shares(embedder, text):
    """The obvious version: eager attention's full maps of one unpadded text."""
    (prompt,) = ONE_WORD.tokenize([text], embedder.tokenizer, embedder.max_length)
    embedder.backbone.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = embedder.backbone(input_ids=torch.tensor([prompt.ids]), output_attentions=True).attentions
    embedder.backbone.set_attn_implementation("sdpa")
    rows = torch.stack([layer[0, :, -1].mean(dim=0) for layer in maps]).numpy()  # [L, T]
    sink = rows[:, 0]
    text_share = rows[:, prompt.text_start : prompt.text_end].sum(axis=1)
    return np.stack([sink, 1 - sink - text_share, text_share], axis=1)  # [L, S]


def test_shares_equal_eager_attention_whatever_the_batch(tiny_embedder):
    expected = np.stack([slow_shares(tiny_embedder, text) for text in TEXTS])
    for batch_tokens in (16, 10_000):
        tiny_embedder.batch_tokens = batch_tokens
        np.testing.assert_allclose(attention_shares(tiny_embedder, ONE_WORD, TEXTS, progress=False), expected, atol=1e-6)


def test_shares_add_up_to_one(tiny_embedder):
    shares = attention_shares(tiny_embedder, ONE_WORD, TEXTS, progress=False)
    assert shares.shape == (len(TEXTS), tiny_embedder.backbone.config.num_hidden_layers, len(SEGMENTS))
    np.testing.assert_allclose(shares.sum(axis=-1), 1.0, atol=1e-5)


def test_the_models_own_attention_is_put_back(tiny_embedder):
    before = tiny_embedder.backbone.config._attn_implementation
    attention_shares(tiny_embedder, ONE_WORD, TEXTS[:1], progress=False)
    assert tiny_embedder.backbone.config._attn_implementation == before


def test_recording_does_not_change_the_vectors(tiny_embedder):
    from embedding_adaptation.embedder.attention import _recording_attention
    from embedding_adaptation.embedder.strategy import Strategy

    strategy = Strategy("prompted", ONE_WORD, "last")
    plain = tiny_embedder.encode_strategies(TEXTS, [strategy], progress=False)["prompted"]
    with _recording_attention(tiny_embedder.backbone):
        recorded = tiny_embedder.encode_strategies(TEXTS, [strategy], progress=False)["prompted"]
    np.testing.assert_allclose(recorded, plain, atol=1e-6)


def test_an_adapted_model_is_measured_through_its_adapter(tiny_embedder):
    from peft import LoraConfig, get_peft_model

    base = attention_shares(tiny_embedder, ONE_WORD, TEXTS, progress=False)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    tiny_embedder.backbone = get_peft_model(tiny_embedder.backbone, config).eval()
    adapted = attention_shares(tiny_embedder, ONE_WORD, TEXTS, progress=False)
    assert np.abs(adapted - base).max() > 1e-3
    np.testing.assert_allclose(adapted.sum(axis=-1), 1.0, atol=1e-5)
