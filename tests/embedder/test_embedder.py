from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from embedding_adaptation.embedder.embedder import Embedder, Strategy
from embedding_adaptation.embedder.template import PromptTemplate

BARE = PromptTemplate("bare", "{text}")
ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
TEXTS = [
    "the bus is late",
    "please give back the book",
    "a house on the street",
    "water " * 40,
    "who will come to the garden after work and help",
    "bus",
]
STRATEGIES = [
    Strategy("bare_mean", BARE, "mean"),
    Strategy("bare_last", BARE, "last"),
    Strategy("text_mean", ONE_WORD, "text_mean"),
    Strategy("prompted", ONE_WORD, "last"),
    Strategy("prompted_raw", ONE_WORD, "last", normalise=False),
]


def slow_vector(embedder: Embedder, strategy: Strategy, text: str) -> np.ndarray:
    """The obvious version: one text, no batch, no padding."""
    (prompt,) = strategy.template.tokenize([text], embedder.tokenizer, embedder.max_length)
    with torch.inference_mode():
        hidden = embedder.backbone(input_ids=torch.tensor([prompt.ids])).last_hidden_state[0]  # [T, D]
    pooled = {
        "last": hidden[-1],
        "mean": hidden.mean(dim=0),
        "text_mean": hidden[prompt.text_start : prompt.text_end].mean(dim=0),
    }[strategy.pooling]
    return (pooled / pooled.norm() if strategy.normalise else pooled).numpy()


@pytest.mark.parametrize("batch_tokens", [64, 100_000])
def test_batched_vectors_equal_one_text_at_a_time(tiny_embedder, batch_tokens):
    tiny_embedder.batch_tokens = batch_tokens
    encoded = tiny_embedder.encode(TEXTS, STRATEGIES, progress=False)
    for strategy in STRATEGIES:
        expected = np.stack([slow_vector(tiny_embedder, strategy, text) for text in TEXTS])
        np.testing.assert_allclose(encoded[strategy.name], expected, atol=1e-5)


def test_results_are_in_input_order_and_equal_texts_are_embedded_once(tiny_embedder, monkeypatch):
    seen = []
    tokenize = PromptTemplate.tokenize
    monkeypatch.setattr(PromptTemplate, "tokenize", lambda self, texts, *args: seen.extend(texts) or tokenize(self, texts, *args))
    doubled = ["bus", "house", "bus", "street"]
    vectors = tiny_embedder.encode(doubled, [STRATEGIES[3]], progress=False)["prompted"]
    assert seen == ["bus", "house", "street"]
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.allclose(vectors[0], vectors[1])


def test_vectors_are_float32_unit_vectors_unless_asked_otherwise(tiny_embedder):
    encoded = tiny_embedder.encode(TEXTS, STRATEGIES, progress=False)
    assert encoded["prompted"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(encoded["prompted"], axis=1), 1.0, atol=1e-5)
    assert not np.allclose(np.linalg.norm(encoded["prompted_raw"], axis=1), 1.0, atol=1e-2)


def test_sentence_transformers_sees_the_same_tokens_and_gives_the_same_vectors(tiny_embedder):
    strategy = STRATEGIES[3]
    model = tiny_embedder.sentence_transformer(strategy)
    features = model.preprocess(TEXTS)
    prompts = strategy.template.tokenize(TEXTS, tiny_embedder.tokenizer, tiny_embedder.max_length)
    for row, prompt in enumerate(prompts):
        assert features["input_ids"][row][features["attention_mask"][row].bool()].tolist() == list(prompt.ids)
    ours = tiny_embedder.encode(TEXTS, [strategy], progress=False)[strategy.name]
    np.testing.assert_allclose(model.encode(TEXTS), ours, atol=1e-5)


def test_a_prompt_beside_the_template_is_refused(tiny_embedder):
    model = tiny_embedder.sentence_transformer(STRATEGIES[3])
    with pytest.raises(ValueError, match="beside the template 'one_word'"):
        model.preprocess(["bus"], prompt="query: ")


def test_bfloat16_stays_close_to_float32(tiny_weights):
    vectors = {}
    for dtype in ("float32", "bfloat16"):
        embedder = Embedder.load(tiny_weights, device="cpu", dtype=dtype, max_length=64)
        vectors[dtype] = embedder.encode(TEXTS, [STRATEGIES[3]], progress=False)["prompted"]
    assert (vectors["float32"] * vectors["bfloat16"]).sum(axis=1).min() > 0.999


def test_no_texts_give_an_empty_array(tiny_embedder):
    assert tiny_embedder.encode([], [STRATEGIES[0]], progress=False)["bare_mean"].shape == (0, 32)


def test_modules_save_their_configuration(tiny_embedder, tmp_path):
    import json

    model = tiny_embedder.sentence_transformer(dataclasses.replace(STRATEGIES[3], normalise=False))
    model[0].save(str(tmp_path))
    model[1].save(str(tmp_path))
    assert json.loads((tmp_path / "prompted_decoder.json").read_text())["template_pattern"] == ONE_WORD.pattern
    assert (tmp_path / "model.safetensors").is_file()
    assert model.get_embedding_dimension() == 32
