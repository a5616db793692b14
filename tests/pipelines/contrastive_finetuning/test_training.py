from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.pipelines.contrastive_finetuning import training as module
from embedding_adaptation.pipelines.contrastive_finetuning.batches import BatchError
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.contrastive_finetuning.trainer import LengthSortedCollator
from embedding_adaptation.pipelines.contrastive_finetuning.training import (
    TrainingError,
    add_adapter,
    batch_loss,
    learning_rate_factor,
    train,
)

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
    plain = {"false_negatives": {"near_duplicate": None}, "stopping": {"criterion": None}}  # the texts here differ in a number
    lora = {"layers": "all"} | changes.pop("lora", {})
    return FinetuningOptions.model_validate(values | plain | changes | {"lora": lora})


def test_training_lowers_the_loss_and_writes_a_history(tiny_weights, embedder_options):
    adapter, history = train(tiny_weights, pairs(24), pairs(6), options(steps=12), embedder_options())
    assert history["step"].tolist() == list(range(13))
    assert history["train_loss"].iloc[-3:].mean() < history["train_loss"].iloc[1:4].mean()
    assert history.loc[[0, 2, 12], ["validation_loss", "validation_accuracy"]].notna().all(axis=None)
    assert np.isnan(history.loc[1, "validation_loss"])
    assert (adapter.steps, adapter.pooling, adapter.base) == (12, "last", tiny_weights.card)
    assert adapter.template == STRATEGY.template.pattern
    assert adapter.strategy["templates"][0]["pattern"] == STRATEGY.template.pattern
    assert (adapter.strategy["pooling"], adapter.strategy["normalise"]) == ("last", True)


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
    batch = LengthSortedCollator(preprocess_fn=model.preprocess)(rows)
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


def weights_of(adapter):
    return {name: weight.detach().clone() for name, weight in adapter.model.named_parameters() if "lora_" in name}


def assert_equal(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], atol=tolerance, rtol=0)


class CrashError(RuntimeError):
    pass


def crash_in(monkeypatch, step):
    """Let a run die in the given step, after its checkpoints."""
    forward = module.batch_loss

    def batch_loss_that_dies(*args, **kwargs):
        loss = forward(*args, **kwargs)
        calls = iter(range(1, 1000))
        original = loss.forward

        def dying(features, labels=None):
            if torch.is_grad_enabled() and next(calls) == step:
                raise CrashError
            return original(features, labels)

        loss.forward = dying
        return loss

    monkeypatch.setattr(module, "batch_loss", batch_loss_that_dies)


@pytest.mark.parametrize(
    "changes", [{}, {"lora": {"dropout": 0.2}}, {"schedule": "cosine", "warmup_pairs": 12}], ids=["plain", "dropout", "warm-up"]
)
def test_an_interrupted_run_ends_with_the_same_adapter(tiny_weights, embedder_options, tmp_path, monkeypatch, changes):
    chosen = options(steps=7, **changes)
    expected, history = train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options(), checkpoints=tmp_path / "whole")
    with monkeypatch.context() as patch:
        crash_in(patch, 6)
        with pytest.raises(CrashError):
            train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options(), checkpoints=tmp_path / "torn")
    seen = []
    monkeypatch.setattr(module.logger, "info", lambda text, *args: seen.append(text % args))
    adapter, again = train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options(), checkpoints=tmp_path / "torn")
    assert "training goes on from step 4 of 7" in seen
    assert_equal(weights_of(adapter), weights_of(expected), tolerance=1e-6)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), history.drop(columns="seconds"), rtol=1e-5)


def test_a_finished_run_is_not_trained_again(tiny_weights, embedder_options, tmp_path, monkeypatch):
    first, history = train(tiny_weights, pairs(24), pairs(6), options(), embedder_options(), checkpoints=tmp_path)
    with monkeypatch.context() as patch:
        crash_in(patch, 1)
        second, again = train(tiny_weights, pairs(24), pairs(6), options(), embedder_options(), checkpoints=tmp_path)
    assert_equal(weights_of(first), weights_of(second))
    pd.testing.assert_frame_equal(again, history)


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-3}, {"temperature": 0.1}, {"seed": 1}, {"lora": {"rank": 4}}])
def test_other_options_never_go_on_from_these_checkpoints(tiny_weights, embedder_options, tmp_path, changes):
    train(tiny_weights, pairs(24), pairs(6), options(), embedder_options(), checkpoints=tmp_path)
    train(tiny_weights, pairs(24), pairs(6), options(**changes), embedder_options(), checkpoints=tmp_path)
    train(tiny_weights, pairs(24), pairs(6), options(activation_mb=0, chunk_tokens=48), embedder_options(), checkpoints=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_torn_checkpoint_is_skipped(tiny_weights, embedder_options, tmp_path, caplog):
    expected, _ = train(tiny_weights, pairs(24), pairs(6), options(steps=6), embedder_options(), checkpoints=tmp_path)
    (last,) = tmp_path.glob("*/step-000006")
    (last / "adapter_model.safetensors").write_bytes(b"half of it")
    adapter, _ = train(tiny_weights, pairs(24), pairs(6), options(steps=6), embedder_options(), checkpoints=tmp_path)
    assert "step-000006 is torn and not used" in caplog.text
    assert_equal(weights_of(adapter), weights_of(expected), tolerance=1e-6)


def test_a_full_disk_costs_checkpoints_and_not_the_run(tiny_weights, embedder_options, tmp_path, monkeypatch, caplog):
    from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import Checkpoints

    def full(self, step, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save", full)
    adapter, history = train(tiny_weights, pairs(24), pairs(6), options(), embedder_options(), checkpoints=tmp_path)
    assert "checkpoint of step 2 could not be written" in caplog.text
    assert adapter.steps == history["step"].max() == 3


def test_the_step_with_the_best_criterion_is_kept_and_training_ends_early(tiny_weights, embedder_options, tmp_path, monkeypatch):
    from embedding_adaptation.pipelines.contrastive_finetuning.judging import Judge

    values = iter([5.0, 3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(Judge, "scores", lambda self, encode: {"validation_loss": next(values)})
    chosen = options(steps=40, stopping={"criterion": "validation_loss", "patience": 2})
    adapter, history = train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options(), checkpoints=tmp_path)
    assert history["step"].max() == 8
    assert history.loc[history["chosen"], "step"].tolist() == [4]
    assert adapter.steps == 4
    from safetensors.torch import load_file

    (folder,) = tmp_path.glob("*/step-000004")
    stored = load_file(folder / "adapter_model.safetensors")
    assert_equal({name.replace(".default", ""): weight for name, weight in weights_of(adapter).items()}, stored)


def test_where_no_step_is_better_than_none_the_adapter_changes_nothing(tiny_weights, embedder_options, monkeypatch, caplog):
    from embedding_adaptation.pipelines.contrastive_finetuning.judging import Judge

    values = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(Judge, "scores", lambda self, encode: {"validation_loss": next(values)})
    chosen = options(stopping={"criterion": "validation_loss", "patience": 9})
    adapter, _ = train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options())
    assert adapter.steps == 0
    assert all(not weight.any() for name, weight in weights_of(adapter).items() if "lora_B" in name)
    assert "no step is better than none by validation_loss" in caplog.text


def test_pairs_are_mined_again_from_the_adapted_embedder(tiny_weights, embedder_options, tmp_path, monkeypatch):
    corpus = pd.DataFrame({"id": [f"t{n}" for n in range(30)], "text": [f"{WORDS[n % 12]} and {WORDS[n % 7]} {n}" for n in range(30)]})
    chosen = options(
        steps=7, validate_every=2, rounds={"every": 3, "min_similarity": -1.0, "min_rank": 0.0, "min_change": 0.0, "texts": 30}
    )
    seen = []
    monkeypatch.setattr(module.logger, "info", lambda text, *args: seen.append(text % args))
    rounds = __import__("embedding_adaptation.pipelines.contrastive_finetuning.rounds", fromlist=["logger"])
    monkeypatch.setattr(rounds.logger, "info", lambda text, *args: seen.append(text % args))
    expected, history = train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options(), corpus=corpus, checkpoints=tmp_path / "whole")
    assert sum("mined" in line for line in seen) == 2
    assert history["step"].tolist() == list(range(8))
    (folder,) = (tmp_path / "whole").glob("*/step-000006")
    assert set(pd.read_parquet(folder / "pairs.parquet")["source_id"]) <= set(corpus["id"])
    with monkeypatch.context() as patch:
        crash_in(patch, 3)  # of a round, since each has a loss of its own
        with pytest.raises(CrashError):
            train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options(), corpus=corpus, checkpoints=tmp_path / "torn")
    adapter, _ = train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options(), corpus=corpus, checkpoints=tmp_path / "torn")
    assert_equal(weights_of(adapter), weights_of(expected), tolerance=1e-6)


def test_hard_negatives_come_from_the_corpus_and_change_the_loss(tiny_weights, embedder_options):
    corpus = pd.DataFrame({"id": [f"t{n}" for n in range(30)], "text": [f"{WORDS[n % 12]} and {WORDS[n % 7]} {n}" for n in range(30)]})
    _, without = train(tiny_weights, pairs(24), pairs(6), options(), embedder_options(), corpus=corpus)
    hard = options(hard_negatives={"skip": 0, "within": 20, "relative_margin": 0.0})
    _, with_them = train(tiny_weights, pairs(24), pairs(6), hard, embedder_options(), corpus=corpus)
    assert (with_them["train_loss"].dropna() > without["train_loss"].dropna()).all()


def test_rounds_and_hard_negatives_without_a_corpus_are_refused(tiny_weights, embedder_options):
    with pytest.raises(TrainingError, match="take their texts from a corpus, and none was given"):
        train(tiny_weights, pairs(24), pairs(6), options(rounds={"every": 2}), embedder_options())


def test_identical_pairs_are_refused_before_anything_is_loaded(tiny_weights, embedder_options, monkeypatch):
    monkeypatch.setattr(module, "load_embedder", lambda *args, **kwargs: pytest.fail("loaded"))
    same = pairs(24).assign(source_text="the bus is late", generated_text="late bus")
    with pytest.raises(BatchError, match="1 of the 24 training pairs can stand in one batch of 6"):
        train(tiny_weights, same, pairs(6), options(), embedder_options())


def test_four_bits_without_cuda_are_refused_before_anything_is_loaded(tiny_weights, embedder_options, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="four_bit needs a CUDA device and bitsandbytes; install the extra 'quantised'"):
        train(tiny_weights, pairs(24), pairs(6), options(four_bit=True), embedder_options())


def test_the_learning_rate_rises_over_pairs_and_falls_to_zero():
    linear = options(steps=10, warmup_pairs=12, batch_size=6)
    factors = [learning_rate_factor(step, linear) for step in range(11)]
    assert factors[0] == pytest.approx(1 / 3)
    assert factors[2] == 1.0
    assert factors[6] == pytest.approx(0.5)
    assert factors[10] == 0.0
    assert learning_rate_factor(9, options(steps=10, schedule="constant")) == 1.0
    assert learning_rate_factor(5, options(steps=10, schedule="cosine")) == pytest.approx(0.5)


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tiny_weights, embedder_options, tmp_path):
    chosen = options(steps=3, batch_size=8, learning_rate=1e-3)
    corpus = pd.DataFrame({"id": [f"t{n}" for n in range(30)], "text": [f"{WORDS[n % 12]} and {WORDS[n % 7]} {n}" for n in range(30)]})
    expected, history = train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options(), corpus=corpus)
    two = chosen.model_copy(update={"devices": 2})
    adapter, shared = train(tiny_weights, pairs(24), pairs(6), two, embedder_options(), corpus=corpus, checkpoints=tmp_path)
    assert_equal(weights_of(adapter), weights_of(expected), tolerance=1e-5)
    np.testing.assert_allclose(shared["train_loss"], history["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(shared["gradient_norm"], history["gradient_norm"], rtol=1e-4)
    assert len(list(tmp_path.glob("*/step-000003"))) == 1


@pytest.mark.slow
def test_a_process_that_fails_is_an_error(tiny_weights, embedder_options, tmp_path):
    chosen = options(steps=3, batch_size=8, devices=2, learning_rate=1e30)
    with pytest.raises(TrainingError, match="training on 2 devices ended with exit code"):
        train(tiny_weights, pairs(24), pairs(6), chosen, embedder_options())


def test_a_batch_is_sorted_by_length_with_its_pairs_together(tiny_embedder):
    model = tiny_embedder.sentence_transformer(STRATEGY)
    rows = [{"anchor": "the bus is late again today", "positive": "late bus"}, {"anchor": "water", "positive": "water"}]
    batch = LengthSortedCollator(preprocess_fn=model.preprocess)(rows)
    lengths = batch["anchor_attention_mask"].sum(dim=1).tolist()
    assert lengths == sorted(lengths)
    assert batch["positive_attention_mask"].sum(dim=1).tolist()[0] < batch["positive_attention_mask"].sum(dim=1).tolist()[1]


def test_too_few_pairs_for_a_batch_are_refused_before_anything_is_loaded(tiny_weights, embedder_options, monkeypatch):
    monkeypatch.setattr(module, "load_embedder", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(TrainingError, match="there are 5 training pairs, fewer than one batch of 6; lower"):
        train(tiny_weights, pairs(5), pairs(3), options(), embedder_options())


def test_a_loss_that_is_no_number_stops_the_run(tiny_weights, embedder_options):
    with pytest.raises(TrainingError, match=r"the training loss is .* lower contrastive_finetuning.learning_rate"):
        train(tiny_weights, pairs(12), pairs(4), options(steps=8, learning_rate=1e30), embedder_options())
