from __future__ import annotations

import pytest

from embedding_adaptation.pipelines.plan.errors import PlanError
from embedding_adaptation.pipelines.plan.sample_runs import _error, loop_seconds, sample_run, shortened


def test_steps_and_looks_are_told_apart():
    # A look of 2 s, a step of 5 s, a step of 5 s and another look.
    assert loop_seconds([2.0, 7.0, 14.0], 2) == pytest.approx((5.0, 2.0, 2))
    # A look after each step: as long as the first one.
    assert loop_seconds([2.0, 9.0, 16.0], 1) == pytest.approx((5.0, 2.0, 3))
    assert loop_seconds([2.0], 1) == (0.0, 2.0, 1)


def test_a_short_run_has_few_steps_and_leaves_the_options_as_they_are(parameters):
    values = shortened(parameters, steps=2, tiny=True, texts=100)
    assert values["contrastive_finetuning"]["steps"] == values["contrastive_finetuning"]["validate_every"] == 2
    assert parameters["contrastive_finetuning"]["steps"] == 24
    assert {tuple(strategy["layers"]) for strategy in values["embedder"]["strategies"].values()} == {(-1,)}
    assert "plan" not in values
    assert values["data_augmentation"]["generators"]["neighbours"]["min_similarity"] == -1.0
    of_base = shortened(parameters, steps=2, tiny=False, texts=100)
    assert of_base["embedder"] == parameters["embedder"]
    assert (of_base["data_augmentation"]["cleaning"]["max_texts"], values["data_augmentation"]["cleaning"]["max_texts"]) == (50, 2000)
    for one in (values, of_base):
        assert (one["model_export"]["guard"], one["text_clustering"]["weights"]) == (False, "adapted")
    assert parameters["model_export"]["guard"]


@pytest.mark.slow
def test_a_run_that_fails_is_quoted(parameters):
    with pytest.raises(PlanError, match=r"the run on a sample failed: of 3 corpus texts 1 are left after cleaning .*; mend that first"):
        sample_run(["one text only"] * 3, parameters, base_model="random:tiny-llama", steps=2, tiny=True)


def test_the_error_is_the_one_at_the_end():
    assert _error("clean: 1\rclean: 2\nError: no such\n file\n") == "no such file"
    assert _error("one\ntwo\nthree\nfour\nValueError: five\n") == "two three four ValueError: five"
