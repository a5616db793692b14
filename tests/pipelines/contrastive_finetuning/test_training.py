from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.pipelines.contrastive_finetuning import training as module
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.contrastive_finetuning.training import TrainingError, add_adapter, batch_loss, train, validation_scores

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


def test_the_loss_of_the_trainer_has_the_gradients_of_one_plain_pass(tiny_embedder, tmp_path):
    """Packed rows, frozen lower layers and chunks against sentence-transformers' modules over the whole padded batch."""
    torch.manual_seed(0)
    chosen = options(
        lora={"layers": [1, 2]}, false_negatives={"same_source": False, "near_duplicate": None}, symmetric=False, activation_mb=0
    )
    first_layer = add_adapter(tiny_embedder, chosen)
    with torch.no_grad():
        for name, weight in tiny_embedder.backbone.named_parameters():
            if "lora_B" in name:  # an adapter starts as zero, and with it many gradients
                weight.normal_(std=0.05)
    model = tiny_embedder.sentence_transformer(STRATEGY)
    frame = pairs(9).assign(source_text=lambda f: f["source_text"] + [" again" * (n * 5 % 7) for n in range(9)])
    rows = [
        {"anchor": a, "positive": p, "label": n} for n, (a, p) in enumerate(zip(frame["source_text"], frame["generated_text"], strict=True))
    ]

    def gradients(loss):
        tiny_embedder.backbone.zero_grad()
        loss.backward()
        return {name: weight.grad.clone() for name, weight in tiny_embedder.backbone.named_parameters() if weight.grad is not None}

    fast = batch_loss(tiny_embedder, model, STRATEGY, frame, chosen, first_layer=first_layer, scratch=tmp_path)
    batch = module._collator(model)(rows)
    columns = [{k.removeprefix(f"{side}_"): v for k, v in batch.items() if k.startswith(side)} for side in ("anchor", "positive")]
    of_fast = gradients(fast(columns, batch["label"]))
    one, two = (
        torch.nn.functional.normalize(model(model.preprocess(frame[name].tolist()))["sentence_embedding"], dim=-1)
        for name in ("source_text", "generated_text")
    )
    slow = torch.nn.functional.cross_entropy(one @ two.T / chosen.temperature, torch.arange(len(rows)))
    of_slow = gradients(slow)
    assert first_layer == 1
    assert of_fast.keys() == of_slow.keys()
    for name, expected in of_slow.items():
        torch.testing.assert_close(of_fast[name], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("layers", "expected"), [("all", [0, 1, 2]), ("upper_half", [1, 2]), ("upper_third", [2]), ([0, -1], [0, 2])], ids=str
)
def test_the_adapter_sits_on_the_chosen_layers_only(tiny_embedder, layers, expected):
    first = add_adapter(tiny_embedder, options(lora={"layers": layers}))
    names = [name for name, weight in tiny_embedder.backbone.named_parameters() if weight.requires_grad]
    assert sorted({int(name.split("layers.")[1].split(".")[0]) for name in names}) == expected
    assert first == expected[0]


def test_the_adapter_sits_on_the_chosen_modules_only(tiny_embedder):
    add_adapter(tiny_embedder, options(lora={"target_modules": ["q_proj", "v_proj"]}))
    names = {
        name.split(".lora_")[0].rpartition(".")[2] for name, weight in tiny_embedder.backbone.named_parameters() if weight.requires_grad
    }
    assert names == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"layers": [7]}, "names layer 7; the model has layers 0 to 2"),
        ({"target_modules": ["w_q"]}, "names 'w_q'; the model's layers have down_proj"),
    ],
)
def test_layers_and_modules_that_are_not_there_are_named(tiny_embedder, lora, message):
    with pytest.raises(ValueError, match=message):
        add_adapter(tiny_embedder, options(lora=lora))


def test_rank_stabilised_and_weight_decomposed_adapters_are_made(tiny_embedder):
    add_adapter(tiny_embedder, options(lora={"rank_stabilised": True, "weight_decomposed": True, "rank": 4, "alpha": 8}))
    config = tiny_embedder.backbone.peft_config["default"]
    assert (config.use_rslora, config.use_dora) == (True, True)
    assert any("lora_magnitude_vector" in name for name, weight in tiny_embedder.backbone.named_parameters() if weight.requires_grad)


def test_a_decoder_that_does_not_pack_is_trained_the_slow_way(tiny_weights, embedder_options, monkeypatch, caplog):
    from embedding_adaptation.embedder.decoder_pass import UnsupportedDecoderError
    from embedding_adaptation.embedder.training_pass import TrainingPass

    def refuse(self, rows):
        raise UnsupportedDecoderError("its layers mix tokens")

    _, expected = train(tiny_weights, pairs(12), pairs(4), options(), embedder_options())
    monkeypatch.setattr(TrainingPass, "check", refuse)
    _, history = train(tiny_weights, pairs(12), pairs(4), options(), embedder_options())
    assert "training goes the slow way, over padded texts and all layers: its layers mix tokens" in caplog.text
    np.testing.assert_allclose(history["train_loss"].dropna(), expected["train_loss"].dropna(), rtol=1e-3)


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
