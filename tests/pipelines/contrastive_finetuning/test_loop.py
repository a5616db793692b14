from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from embedding_adaptation.checkpoint_folders import Checkpoints
from embedding_adaptation.pipelines.contrastive_finetuning import rounds
from embedding_adaptation.pipelines.contrastive_finetuning.batches import PairBatches
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCache
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError
from embedding_adaptation.pipelines.contrastive_finetuning.judging import Judge
from embedding_adaptation.pipelines.contrastive_finetuning.loop import learning_rate_factor, remaining_seconds, step_seed
from embedding_adaptation.pipelines.contrastive_finetuning.lora import add_adapter
from embedding_adaptation.runtime import build_strategy, load_embedder

ROUNDS = {"every": 3, "min_similarity": -1.0, "min_rank": 0.0, "min_change": 0.0, "texts": 30}
NEGATIVES = {"skip": 0, "within": 20, "relative_margin": 0.0}


def weights_of(adapter):
    return {name: weight.detach().clone() for name, weight in adapter.model.named_parameters() if "lora_" in name}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


def assert_same_history(one, other):
    pd.testing.assert_frame_equal(one.drop(columns=["seconds", "joules"]), other.drop(columns=["seconds", "joules"]), check_exact=True)


class CrashError(RuntimeError):
    pass


def crash_in(monkeypatch, step):
    """Let a run die in the given step of this process, after the checkpoints before it."""
    forward, calls = GradCache.forward, iter(range(1, 1000))

    def dying(self, columns):
        if next(calls) == step:
            raise CrashError
        return forward(self, columns)

    monkeypatch.setattr(GradCache, "forward", dying)


def test_training_lowers_the_loss_and_writes_a_history(job_of):
    job = job_of(steps=12)
    adapter, history = train(job)
    assert history["step"].tolist() == list(range(13))
    assert history["train_loss"].iloc[-3:].mean() < history["train_loss"].iloc[1:4].mean()
    assert history.loc[[0, 2, 12], ["validation_loss", "validation_accuracy"]].notna().all(axis=None)
    assert np.isnan(history.loc[1, "validation_loss"])
    assert history["pairs"].tolist() == [6 * step for step in range(13)]
    assert (history["tokens"].diff().dropna() > 0).all()
    assert (adapter.steps, adapter.pooling, adapter.base) == (12, "last", job.weights.card)
    assert adapter.template == 'This sentence: "{text}" means in one word: "'
    assert adapter.strategy["templates"][0]["pattern"] == adapter.template
    assert (adapter.strategy["pooling"], adapter.strategy["normalise"]) == ("last", True)


def test_the_same_seed_gives_the_same_adapter(job_of):
    first, second = (train(job_of(12, 4))[0] for _ in range(2))
    assert_equal(weights_of(first), weights_of(second))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_curve_is_that_of_plain_steps_over_whole_padded_batches(job_of, seed):
    """GradCache, packed rows, stored lower layers and tokens made before the loop against the obvious way of writing it."""
    job = job_of(steps=6, seed=seed, lora={"layers": [1, 2]}, schedule="cosine", warmup_pairs=12, weight_decay=0.1, max_gradient_norm=0.5)
    options = job.options
    _, history = train(job)

    torch.manual_seed(seed)
    embedder = load_embedder(job.weights, job.embedder_options)
    add_adapter(embedder, options.lora)
    model = embedder.sentence_transformer(build_strategy("prompted_last_adapted", job.embedder_options)).train()
    weights = [weight for weight in embedder.backbone.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, options))
    expected = []
    for batch in PairBatches(job.groups, batch_size=6, steps=6, seed=seed):
        rows = job.train_pairs.iloc[batch]
        one, two = (
            torch.nn.functional.normalize(model(model.preprocess(rows[name].tolist()))["sentence_embedding"], dim=-1)
            for name in ("source_text", "generated_text")
        )
        scores = one @ two.T / options.temperature  # [B, B]
        own = torch.arange(len(batch))
        loss = (torch.nn.functional.cross_entropy(scores, own) + torch.nn.functional.cross_entropy(scores.T, own)) / 2
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, options.max_gradient_norm)
        expected.append((loss.item(), norm.item(), schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    np.testing.assert_allclose(history[["train_loss", "gradient_norm", "learning_rate"]].iloc[1:], expected, rtol=2e-4)


# Options, the step in which the run dies, and the last checkpoint before it.
CRASHES = {
    "plain": ({}, 6, 4),
    "dropout": ({"lora": {"dropout": 0.2}}, 6, 4),
    "chunks embedded twice": ({"lora": {"dropout": 0.2}, "activation_mb": 0}, 6, 4),
    "warm-up": ({"schedule": "cosine", "warmup_pairs": 12}, 6, 4),
    "hard negatives": ({"hard_negatives": NEGATIVES}, 6, 4),
    "in a round": ({"rounds": ROUNDS}, 6, 5),
    "between rounds": ({"rounds": ROUNDS, "hard_negatives": NEGATIVES}, 4, 3),
}


@pytest.mark.parametrize(("changes", "dies", "checkpoint"), CRASHES.values(), ids=CRASHES)
def test_an_interrupted_run_ends_with_the_same_adapter_to_the_bit(job_of, corpus, tmp_path, monkeypatch, caplog, changes, dies, checkpoint):
    caplog.set_level("INFO")
    expected, history = train(job_of(steps=7, corpus=corpus, checkpoints=tmp_path / "whole", **changes))
    job = job_of(steps=7, corpus=corpus, checkpoints=tmp_path / "torn", **changes)
    with monkeypatch.context() as patch:
        crash_in(patch, dies)
        with pytest.raises(CrashError):
            train(job)
    adapter, again = train(job)
    assert f"resuming training at step {checkpoint} of 7" in caplog.messages
    assert_equal(weights_of(adapter), weights_of(expected))
    assert_same_history(again, history)


def test_a_finished_run_is_not_trained_again(job_of, tmp_path, monkeypatch):
    job = job_of(checkpoints=tmp_path)
    first, history = train(job)
    crash_in(monkeypatch, 1)
    second, again = train(job)
    assert_equal(weights_of(first), weights_of(second))
    pd.testing.assert_frame_equal(again, history)


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-3}, {"temperature": 0.1}, {"seed": 1}, {"lora": {"rank": 4}}])
def test_other_options_never_go_on_from_these_checkpoints(job_of, tmp_path, changes):
    train(job_of(checkpoints=tmp_path))
    train(job_of(checkpoints=tmp_path, **changes))
    train(job_of(checkpoints=tmp_path, activation_mb=0, chunk_tokens=48))
    assert len(list(tmp_path.glob("format-*/*"))) == 2


def test_a_torn_checkpoint_is_skipped(job_of, tmp_path, caplog):
    expected, _ = train(job_of(steps=6, checkpoints=tmp_path))
    (last,) = tmp_path.glob("*/*/step-000006")
    (last / "adapter_model.safetensors").write_bytes(b"half of it")
    adapter, _ = train(job_of(steps=6, checkpoints=tmp_path))
    assert "step-000006 is incomplete and is not used" in caplog.text
    assert_equal(weights_of(adapter), weights_of(expected))


def test_a_full_disk_costs_checkpoints_and_not_the_run(job_of, tmp_path, monkeypatch, caplog):
    def full(self, step, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save", full)
    adapter, history = train(job_of(checkpoints=tmp_path))
    assert "checkpoint of step 2 could not be written" in caplog.text
    assert adapter.steps == history["step"].max() == 3


def test_the_step_with_the_best_criterion_is_kept_and_training_ends_early(job_of, tmp_path, monkeypatch):
    values = iter([5.0, 3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(Judge, "scores", lambda self, encode: {"validation_loss": next(values)})
    adapter, history = train(job_of(steps=40, stopping={"criterion": "validation_loss", "patience": 2}, checkpoints=tmp_path))
    assert history["step"].max() == 8
    assert history.loc[history["chosen"], "step"].tolist() == [4]
    assert adapter.steps == 4
    (folder,) = tmp_path.glob("*/*/step-000004")
    stored = load_file(folder / "adapter_model.safetensors")
    assert_equal({name.replace(".default", ""): weight for name, weight in weights_of(adapter).items()}, stored)


def test_where_no_step_is_better_than_none_the_adapter_changes_nothing(job_of, monkeypatch, caplog):
    values = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(Judge, "scores", lambda self, encode: {"validation_loss": next(values)})
    adapter, _ = train(job_of(stopping={"criterion": "validation_loss", "patience": 9}))
    assert adapter.steps == 0
    assert all(not weight.any() for name, weight in weights_of(adapter).items() if "lora_B" in name)
    assert "no step improved validation_loss over the base model" in caplog.text


def test_pairs_are_mined_again_from_the_adapted_embedder(job_of, corpus, tmp_path, caplog):
    caplog.set_level("INFO", logger=rounds.__name__)
    _, history = train(job_of(steps=7, corpus=corpus, rounds=ROUNDS, checkpoints=tmp_path))
    assert sum("mined" in line for line in caplog.messages) == 2
    assert history["step"].tolist() == list(range(8))
    (folder,) = tmp_path.glob("*/*/step-000006")
    assert set(pd.read_parquet(folder / "pairs.parquet")["source_id"]) <= set(corpus["id"])


def test_hard_negatives_come_from_the_corpus_and_change_the_loss(job_of, corpus):
    _, without = train(job_of(corpus=corpus))
    _, with_them = train(job_of(corpus=corpus, hard_negatives=NEGATIVES))
    assert (with_them["train_loss"].dropna() > without["train_loss"].dropna()).all()


def test_the_learning_rate_rises_over_pairs_and_falls_to_zero(job_of):
    linear = job_of(steps=10, warmup_pairs=12, batch_size=6).options
    factors = [learning_rate_factor(step, linear) for step in range(11)]
    assert factors[0] == pytest.approx(1 / 3)
    assert factors[2] == 1.0
    assert factors[6] == pytest.approx(0.5)
    assert factors[10] == 0.0
    assert learning_rate_factor(9, job_of(steps=10, schedule="constant").options) == 1.0
    assert learning_rate_factor(5, job_of(steps=10, schedule="cosine").options) == pytest.approx(0.5)


def test_every_step_and_seed_has_dropout_of_its_own():
    assert len({step_seed(seed, step) for seed in range(10) for step in range(10)}) == 100
    assert step_seed(3, 4) == step_seed(3, 4)


def test_a_loss_that_is_no_number_stops_the_run(job_of):
    with pytest.raises(TrainingError, match=r"the training loss is .* lower contrastive_finetuning.learning_rate"):
        train(job_of(12, 4, steps=8, learning_rate=1e30))


def test_gradients_are_measured_where_they_are_not_cut(job_of):
    _, history = train(job_of(max_gradient_norm=None))
    assert all(math.isfinite(norm) and norm > 0 for norm in history["gradient_norm"].iloc[1:])


@pytest.mark.parametrize(("first", "done", "every"), [(0, 4, 4), (0, 2, 1), (16, 20, 4), (0, 3, 9)])
def test_what_is_left_of_training_is_told_from_its_first_steps(first, done, every):
    step, look, steps = 10.0, 4.0, 24
    rows, seconds = [{"step": 0, "seconds": 60.0}], 60.0  # work for all looks is done before the first step
    for number in range(1, done + 1):
        seconds += (10 * step if number <= first else step) + look * (number % every == 0)
        rows.append({"step": number, "seconds": seconds})
    left = sum(number % every == 0 or number == steps for number in range(done + 1, steps + 1))
    expected = (steps - done) * step + left * look * (done >= every)  # a look that was not seen is not counted
    assert remaining_seconds(rows, first, steps, every) == pytest.approx(expected)


def test_training_says_how_long_it_will_take_once(job_of, caplog, monkeypatch):
    caplog.set_level("INFO", logger="embedding_adaptation")
    monkeypatch.setattr("embedding_adaptation.pipelines.contrastive_finetuning.loop.remaining_seconds", lambda *_: 240.0)
    job = job_of(steps=7)
    train(job)
    done = max(2, job.options.validate_every)
    said = [message for message in caplog.messages if "to go" in message]
    assert said == [f"training: {7 - done} steps to go, about 4 min unless it stops early"]
