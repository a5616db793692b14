from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.pipelines.contrastive_finetuning import training as module
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.contrastive_finetuning.training import TrainingError, add_adapter, train, validation_scores

STRATEGY = Strategy("prompted", PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "'), "last")
WORDS = ["bus", "water", "house", "street", "garden", "library", "school", "council", "letter", "book", "people", "work"]


def pairs(count):
    return pd.DataFrame(
        {
            "source_id": [str(n) for n in range(count)],
            "source_text": [f"the {WORDS[n % 12]} number {n} is good" for n in range(count)],
            "generated_text": [f"good {WORDS[n % 12]} {n}" for n in range(count)],
        }
    )


def options(**changes):
    values = {"steps": 3, "batch_size": 6, "chunk_tokens": 64, "learning_rate": 5e-3, "validate_every": 2, "seed": 0}
    return FinetuningOptions.model_validate(values | changes)


def test_training_lowers_the_loss_and_writes_a_history(tiny_weights, embedder_options):
    adapter, history = train(tiny_weights, pairs(24), pairs(6), options(steps=12), embedder_options())
    assert history["step"].tolist() == list(range(13))
    assert history["train_loss"].iloc[-3:].mean() < history["train_loss"].iloc[1:4].mean()
    assert history.loc[[0, 2, 12], ["validation_loss", "validation_accuracy"]].notna().all(axis=None)
    assert np.isnan(history.loc[1, "validation_loss"])
    assert (adapter.steps, adapter.pooling, adapter.base) == (12, "last", tiny_weights.card)
    assert adapter.template == STRATEGY.template.pattern


def test_only_the_adapter_trains_on_every_linear_layer(tiny_embedder):
    add_adapter(tiny_embedder, options())
    trainable = {name for name, weight in tiny_embedder.backbone.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in trainable)
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    layers = tiny_embedder.backbone.config.num_hidden_layers
    assert len(trainable) == 2 * len(linear) * layers
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trainable} == linear


def test_the_same_seed_gives_the_same_adapter(tiny_weights, embedder_options):
    first, second = (
        {
            n: w.detach().clone()
            for n, w in train(tiny_weights, pairs(12), pairs(4), options(), embedder_options())[0].model.named_parameters()
        }
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def gradients(embedder, texts, loss_of):
    """Gradients of the adapter's weights under one way to compute the loss."""
    backbone = embedder.backbone
    backbone.zero_grad()
    loss_of()
    return {name: weight.grad.clone() for name, weight in backbone.named_parameters() if weight.grad is not None}


def test_gradients_in_sorted_chunks_equal_the_plain_whole_batch(tiny_embedder):
    """GradCache over token chunks and the length-sorted collator against one pass over all pairs, in the data's order."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    torch.manual_seed(0)
    add_adapter(tiny_embedder, options())
    with torch.no_grad():
        for name, weight in tiny_embedder.backbone.named_parameters():
            if "lora_B" in name:  # an adapter starts as zero, and with it many gradients
                weight.normal_(std=0.05)
    model = tiny_embedder.sentence_transformer(STRATEGY)
    frame = pairs(9).assign(source_text=lambda f: f["source_text"] + [" again" * (n * 5 % 7) for n in range(9)])
    rows = [{"anchor": a, "positive": p} for a, p in zip(frame["source_text"], frame["generated_text"], strict=True)]

    def columns(batch):
        return [{k.removeprefix(f"{side}_"): v for k, v in batch.items() if k.startswith(side)} for side in ("anchor", "positive")]

    def chunked():
        loss = CachedMultipleNegativesRankingLoss(model, scale=20.0, mini_batch_num_tokens=48)
        loss(columns(module._collator(model)(copy.deepcopy(rows))), None).backward()

    def plain():
        one, two = (
            model(model.preprocess(list(texts)))["sentence_embedding"] for texts in zip(*[row.values() for row in rows], strict=True)
        )
        scores = torch.nn.functional.normalize(one, dim=-1) @ torch.nn.functional.normalize(two, dim=-1).T * 20.0
        torch.nn.functional.cross_entropy(scores, torch.arange(len(rows))).backward()

    fast, slow = gradients(tiny_embedder, rows, chunked), gradients(tiny_embedder, rows, plain)
    assert fast.keys() == slow.keys()
    for name, expected in slow.items():
        torch.testing.assert_close(fast[name], expected, atol=1e-5, rtol=1e-4)


def test_the_attention_used_for_training_gives_the_same_vectors(tiny_embedder):
    texts = ["the bus is late", "water " * 9]
    fused = tiny_embedder.encode_strategies(texts, [STRATEGY], progress=False)["prompted"]
    add_adapter(tiny_embedder, options())
    assert tiny_embedder.backbone.config._attn_implementation == "eager"
    tiny_embedder.backbone.eval()
    np.testing.assert_allclose(tiny_embedder.encode_strategies(texts, [STRATEGY], progress=False)["prompted"], fused, atol=1e-5)


def test_a_batch_is_sorted_by_length_with_its_pairs_together(tiny_embedder):
    model = tiny_embedder.sentence_transformer(STRATEGY)
    rows = [{"anchor": "the bus is late again today", "positive": "late bus"}, {"anchor": "water", "positive": "water"}]
    batch = module._collator(model)(rows)
    lengths = batch["anchor_attention_mask"].sum(dim=1).tolist()
    assert lengths == sorted(lengths)
    assert batch["positive_attention_mask"].sum(dim=1).tolist()[0] < batch["positive_attention_mask"].sum(dim=1).tolist()[1]


def test_too_few_pairs_for_a_batch_are_refused_before_anything_is_loaded(tiny_weights, embedder_options, monkeypatch):
    monkeypatch.setattr(module, "load_embedder", lambda *args: pytest.fail("loaded"))
    with pytest.raises(TrainingError, match="there are 5 training pairs, fewer than one batch of 6; lower"):
        train(tiny_weights, pairs(5), pairs(3), options(), embedder_options())


def test_a_loss_that_is_no_number_stops_the_run(tiny_weights, embedder_options):
    with pytest.raises(TrainingError, match=r"the training loss is .* lower contrastive_finetuning.learning_rate"):
        train(tiny_weights, pairs(12), pairs(4), options(steps=8, learning_rate=1e30), embedder_options())


def test_validation_scores_equal_the_obvious_version():
    rng = np.random.default_rng(0)
    anchors, positives = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in rng.normal(size=(2, 5, 4)).astype(np.float32))
    loss, accuracy = validation_scores(anchors, positives, 0.1)
    scores = anchors @ positives.T / 0.1
    expected = np.mean([np.log(np.exp(row).sum()) - row[n] for n, row in enumerate(scores)])
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == pytest.approx(np.mean(scores.argmax(axis=1) == np.arange(5)))
