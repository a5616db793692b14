from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning import job as module
from embedding_adaptation.pipelines.contrastive_finetuning import setup
from embedding_adaptation.pipelines.contrastive_finetuning.batches import BatchError
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError, TrainingJob


@pytest.fixture
def nothing_loads(monkeypatch):
    """Nothing may be loaded in this test."""
    monkeypatch.setattr(setup, "load_embedder", lambda *args, **kwargs: pytest.fail("loaded"))


@pytest.mark.usefixtures("nothing_loads")
class TestRefusedBeforeAnythingIsLoaded:
    def test_too_few_pairs_for_a_batch(self, job_of):
        with pytest.raises(TrainingError, match="there are 5 training pairs, fewer than one batch of 6; lower"):
            train(job_of(5, 3))

    def test_identical_pairs(self, job_of, pairs):
        same = pairs(24).assign(source_text="the bus is late", generated_text="late bus")
        with pytest.raises(BatchError, match="only 1 of the 24 training pairs fit into a batch of 6"):
            train(job_of(same))

    def test_rounds_and_hard_negatives_without_a_corpus(self, job_of):
        with pytest.raises(TrainingError, match="need a corpus, and none was given"):
            train(job_of(rounds={"every": 2}))

    def test_four_bits_without_cuda(self, job_of, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(TrainingError, match="four_bit needs a CUDA device and bitsandbytes; install the extra 'quantised'"):
            train(job_of(four_bit=True))

    @pytest.mark.parametrize("name", ["prompted_valuez", "prompted_last_adapted"])
    def test_a_reference_that_is_no_strategy_of_the_base_weights(self, job_of, name):
        message = f"unknown strategy '{name}' in contrastive_finetuning.stopping.reference; choose one .*bare_mean, prompted_last"
        with pytest.raises(TrainingError, match=message):
            train(job_of(stopping={"reference": name}))


def test_near_duplicates_are_looked_for_once_a_run(job_of, monkeypatch):
    calls = []
    pair_groups = module.pair_groups
    monkeypatch.setattr(module, "pair_groups", lambda *args, **kwargs: calls.append(args) or pair_groups(*args, **kwargs))
    train(job_of())
    assert len(calls) == 1


def test_a_job_is_read_as_it_was_written_with_its_groups(job_of, corpus, tmp_path, monkeypatch):
    job = job_of(corpus=corpus, checkpoints=tmp_path / "checkpoints", temperature=0.1)
    job.write(tmp_path)
    read = TrainingJob.read(tmp_path)
    monkeypatch.setattr(module, "pair_groups", lambda *args, **kwargs: pytest.fail("grouped again"))
    np.testing.assert_array_equal(read.groups, job.groups)
    pd.testing.assert_frame_equal(read.train_pairs, job.train_pairs)
    pd.testing.assert_frame_equal(read.corpus, corpus)
    assert (read.options, read.embedder_options, read.checkpoints) == (job.options, job.embedder_options, job.checkpoints)
    assert (read.weights.base, read.weights.card) == (job.weights.base, job.weights.card)


def fingerprint(job):
    return job.fingerprint(max_length=64, dtype="torch.float32")


def test_the_fingerprint_follows_everything_the_result_depends_on(job_of, pairs, corpus):
    base = fingerprint(job_of(corpus=corpus))
    strategies = job_of().embedder_options.model_dump()["strategies"]
    others = [
        job_of(corpus=corpus, temperature=0.1),
        job_of(corpus=corpus, lora={"alpha": 8}),
        job_of(corpus=corpus, stopping={"reference": "bare_mean"}),
        job_of(corpus=corpus, stopping={"reference": "prompted_last"}),
        job_of(
            corpus=corpus,
            embedder={"strategies": strategies | {"prompted_last_adapted": strategies["prompted_last_adapted"] | {"pooling": "mean"}}},
        ),
        job_of(pairs(24).iloc[::-1], corpus=corpus),
        job_of(pairs(24).assign(source_id="1"), corpus=corpus),  # what batching reads
        job_of(pairs(24).assign(other_id="1"), corpus=corpus),
        job_of(pairs(24).assign(generator="noise"), corpus=corpus),  # what mining reads
        job_of(corpus=corpus.assign(text="other")),
        job_of(corpus=corpus.assign(id="other")),
        job_of(),
    ]
    assert len({base, *map(fingerprint, others)}) == 1 + len(others)
    assert job_of(corpus=corpus).fingerprint(max_length=32, dtype="torch.float32") != base
    assert job_of(corpus=corpus).fingerprint(max_length=64, dtype="torch.bfloat16") != base


def test_names_and_what_only_costs_time_leave_the_fingerprint_as_it_is(job_of, pairs):
    options = job_of().embedder_options.model_dump()
    renamed = {
        name.replace("prompted", "my"): value | {"template": ["mine" if t == "one_word" else t for t in value["template"]]}
        for name, value in options["strategies"].items()
    }
    embedder = {
        "strategies": renamed,
        "templates": {"bare": "{text}", "mine": options["templates"]["one_word"]},
        "adapt": "my_last_adapted",
    }
    base = fingerprint(job_of(stopping={"reference": "prompted_last"}))
    same = [
        job_of(stopping={"reference": "my_last"}, embedder=embedder),
        job_of(
            stopping={"reference": "prompted_last"}, chunk_tokens=8, activation_mb=0, lower_states_mb=0, lower_states_disk_mb=0, devices=2
        ),
        job_of(pairs(24).assign(key="nothing reads it"), stopping={"reference": "prompted_last"}),
    ]
    assert {fingerprint(job) for job in same} == {base}
