from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import TrainingState
from embedding_adaptation.pipelines.contrastive_finetuning.consensus import consensus_loss
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import GradCache
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError
from embedding_adaptation.pipelines.contrastive_finetuning.lessons import LessonsError, TrainingTexts, kept_vectors
from embedding_adaptation.pipelines.contrastive_finetuning.setup import prepare

TEACHER = {"strategy": "bare_mean", "neighbours": 3}


@pytest.fixture
def consensus_job(job_of, corpus):
    """A maker of jobs with the consensus loss."""

    def make(**changes):
        values = {
            "loss": "consensus",
            "batch_size": 8,
            "corpus": corpus,
            "consensus": {"perplexity": 3.0},
            "embedder": {"teacher": TEACHER},
        }
        return job_of(**(values | changes))

    return make


def weights_of(adapter):
    return {name: weight.detach().clone() for name, weight in adapter.model.named_parameters() if "lora_" in name}


def gathered(corpus, pairs, held_out, **changes):
    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

    options = FinetuningOptions.model_validate({"steps": 1, "seed": 0} | changes)
    return TrainingTexts.gather(corpus, pairs, held_out, options)


def test_texts_are_those_of_the_corpus_and_of_pairs_that_are_not_mere_neighbours(corpus, pairs):
    frame = pairs(4).assign(generator=["rewrite", "neighbours", "given", "neighbours"])
    found = gathered(corpus, frame, pairs(0))
    assert found.texts[:30] == corpus["text"].tolist()
    assert set(found.texts[30:]) == {*frame["source_text"][[0, 2]], *frame["generated_text"][[0, 2]]}
    one, other = (found.texts.index(frame[name][2]) for name in ("source_text", "generated_text"))
    assert found.partners[one] == [other]
    assert found.partners[other] == [one]
    assert len(found.partners) == 4


def test_texts_of_held_out_pairs_are_held_out_first(corpus, pairs):
    held_out = pairs(2)
    found = gathered(corpus, pairs(0), held_out, validation_share=0.12)
    assert {found.texts[place] for place in found.held_out} == {*held_out["source_text"], *held_out["generated_text"]}


def test_equal_texts_count_once(pairs):
    twice = pd.DataFrame({"text": ["One text", "one  TEXT", *(f"text {n}" for n in range(9))]})
    assert gathered(twice, pairs(0), pairs(0)).texts == ["One text", *(f"text {n}" for n in range(9))]


def test_too_few_texts_are_an_error(consensus_job):
    with pytest.raises(LessonsError, match="there are 7 distinct texts to train on, and at least 8 are needed; give a larger corpus"):
        train(consensus_job(corpus=pd.DataFrame({"id": range(7), "text": [f"t{n}" for n in range(7)]}), train_pairs=0, held_out=0))


def test_training_lowers_the_loss_of_trained_and_held_out_texts(consensus_job):
    # At a larger rate the loss of so small a model jumps about, and where it ends depends on the processor's rounding.
    _, history = train(consensus_job(train_pairs=0, held_out=0, steps=40, learning_rate=0.001))
    assert history["train_loss"].iloc[21:].mean() < 0.9 * history["train_loss"].iloc[1:21].mean()
    assert history["validation_loss"].dropna().iloc[-1] < history["validation_loss"].iloc[0]
    assert history["tokens"].iloc[0] > 0  # what the teacher read
    assert history["texts"].tolist() == [8 * step for step in range(41)]
    assert history["pairs"].max() == 0


def test_the_gradients_are_those_of_one_plain_pass(consensus_job, tmp_path):
    setup = prepare(consensus_job(lora={"layers": [1, 2]}, activation_mb=0, train_pairs=3), tmp_path)
    with torch.no_grad():
        for name, weight in setup.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)

    def gradients():
        found = {name: weight.grad.clone() for name, weight in setup.model.named_parameters() if weight.grad is not None}
        setup.model.zero_grad()
        return found

    now = setup.round(TrainingState())
    batch = next(now.batches(0))
    embedded = setup.cache.forward(now.rows(batch))
    setup.cache.backward(embedded, now.loss(embedded.columns, batch))
    of_fast = gradients()
    model = setup.embedder.sentence_transformer(setup.strategy)
    plain = model(model.preprocess([setup.lessons.given.texts[place] for place in batch]))["sentence_embedding"]
    consensus_loss(plain, torch.from_numpy(setup.lessons.targets(batch)), temperature=0.05).backward()
    of_slow = gradients()
    assert of_fast.keys() == of_slow.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in of_slow.values())
    for name, expected in of_slow.items():
        torch.testing.assert_close(of_fast[name], expected, atol=1e-5, rtol=1e-4)


def test_an_interrupted_run_ends_with_the_same_adapter_to_the_bit(consensus_job, tmp_path, monkeypatch):
    expected, history = train(consensus_job(steps=7, checkpoints=tmp_path / "whole"))
    job = consensus_job(steps=7, checkpoints=tmp_path / "torn")
    forward, calls = GradCache.forward, iter(range(1, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(GradCache, "forward", lambda self, columns: 1 / 0 if next(calls) == 6 else forward(self, columns))
        with pytest.raises(ZeroDivisionError):
            train(job)
    assert len(list((tmp_path / "torn" / "teachers").glob("*.safetensors"))) == 1
    again, resumed = train(job)
    for name, weight in weights_of(expected).items():
        assert torch.equal(weight, weights_of(again)[name]), name
    columns = ["train_loss", "validation_loss", "texts"]
    pd.testing.assert_frame_equal(resumed[columns], history[columns], check_exact=True)


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(consensus_job, tmp_path):
    settings = {"steps": 3, "learning_rate": 1e-3}
    expected, history = train(consensus_job(**settings))
    adapter, shared = train(consensus_job(devices=2, checkpoints=tmp_path, **settings))
    for name, weight in weights_of(expected).items():
        torch.testing.assert_close(weight, weights_of(adapter)[name], atol=1e-5, rtol=0)
    np.testing.assert_allclose(shared["train_loss"], history["train_loss"], rtol=1e-4)


def test_training_can_start_from_an_adapter(consensus_job, tmp_path):
    first, history = train(consensus_job(steps=6))
    first.model.save_pretrained(str(tmp_path / "adapter"), safe_serialization=True, save_embedding_layers=False)
    _, gone_on = train(consensus_job(steps=2, start=str(tmp_path / "adapter")))
    assert gone_on["validation_loss"].iloc[0] == pytest.approx(history["validation_loss"].dropna().iloc[-1], rel=1e-4)
    jobs = [consensus_job(), consensus_job(start=str(tmp_path / "adapter"))]
    assert len({job.fingerprint(max_length=64, dtype="float32") for job in jobs}) == 2


def test_what_is_no_fitting_adapter_is_refused(consensus_job, tmp_path):
    with pytest.raises(TrainingError, match="which holds no adapter"):
        train(consensus_job(start=str(tmp_path)))
    first, _ = train(consensus_job(steps=1))
    first.model.save_pretrained(str(tmp_path / "adapter"), safe_serialization=True, save_embedding_layers=False)
    with pytest.raises(TrainingError, match="has other layers or another rank"):
        train(consensus_job(start=str(tmp_path / "adapter"), lora={"rank": 4}))


@pytest.mark.parametrize("name", ["rounds", "hard_negatives"])
def test_what_only_the_other_loss_has_is_refused(consensus_job, name):
    options = {"rounds": {"every": 3}, "hard_negatives": {}}
    with pytest.raises(TrainingError, match=f"contrastive_finetuning.{name} belongs to loss info_nce"):
        train(consensus_job(**{name: options[name]}))


def test_the_teacher_is_asked_once(tmp_path):
    path = tmp_path / "teachers" / "one.safetensors"
    first = kept_vectors(path, lambda: np.ones((2, 3)))
    np.testing.assert_array_equal(kept_vectors(path, lambda: 1 / 0), first)
    path.write_bytes(path.read_bytes()[:-4])
    np.testing.assert_array_equal(kept_vectors(path, lambda: np.zeros((2, 3))), 0.0)  # damaged: asked again
