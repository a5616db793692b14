from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.pipelines.contrastive_finetuning.judging import CRITERIA, Judge, best_step, is_exhausted, validation_scores
from embedding_adaptation.pipelines.contrastive_finetuning.options import StoppingOptions

RNG = np.random.default_rng(0)


def unit(count, width=4):
    matrix = RNG.normal(size=(count, width)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_validation_scores_equal_the_obvious_version():
    anchors, positives = unit(5), unit(5)
    loss, accuracy = validation_scores(anchors, positives, 0.1)
    scores = anchors @ positives.T / 0.1
    expected = np.mean([np.log(np.exp(row).sum()) - row[n] for n, row in enumerate(scores)])
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == pytest.approx(np.mean(scores.argmax(axis=1) == np.arange(5)))


def judge_of(count=30, **changes):
    vectors = {f"t{n}": vector for n, vector in enumerate(unit(count, 8))}
    pairs = (["t0", "t1", "t2", "t3"], ["t4", "t5", "t6", "t7"])
    judge = Judge(pairs, list(vectors), 0.1, **({"reference": np.stack(list(vectors.values())), "attention": lambda: 0.25} | changes))
    return judge, lambda texts: np.stack([vectors[text] for text in texts]) * 3.0


def test_all_criteria_are_measured():
    judge, encode = judge_of()
    found = judge.scores(encode)
    assert found.keys() == CRITERIA.keys()
    assert found["neighbour_agreement"] == 1.0
    assert found["text_attention"] == 0.25
    assert 1 < found["effective_rank"] <= 8


def test_agreement_with_other_neighbours_is_lower():
    judge, encode = judge_of(reference=unit(30, 8))
    assert judge.scores(encode)["neighbour_agreement"] < 0.6


def test_what_there_is_nothing_to_tell_from_is_left_out():
    judge, encode = judge_of(reference=None, attention=None)
    assert "neighbour_agreement" not in judge.scores(encode)
    assert "text_attention" not in judge.scores(encode)


def test_vectors_that_are_no_numbers_do_not_stop_the_judge():
    judge, _ = judge_of()
    found = judge.scores(lambda texts: np.full((len(texts), 8), np.nan))
    assert set(found) == {"validation_loss", "validation_accuracy"}


LOOKS = [
    {"step": 0, "validation_loss": 3.0, "uniformity": 1.0},
    {"step": 1},
    {"step": 2, "validation_loss": 1.0, "uniformity": 2.0},
    {"step": 4, "validation_loss": 1.0, "uniformity": float("nan")},
    {"step": 6, "validation_loss": 2.0, "uniformity": 1.5},
    {"step": 7},
]


def test_the_best_step_is_the_first_with_the_best_value():
    assert best_step(LOOKS, "validation_loss") == 2
    assert best_step(LOOKS, "uniformity") == 2
    assert best_step(LOOKS, None) == 6
    assert best_step(LOOKS, "alignment") == 6


def test_patience_counts_looks_without_a_better_value():
    assert is_exhausted(LOOKS, "validation_loss", 2)
    assert not is_exhausted(LOOKS, "validation_loss", 3)
    assert not is_exhausted(LOOKS, None, 1)
    assert not is_exhausted([], "validation_loss", 1)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_can_be_chosen(criterion):
    assert StoppingOptions(criterion=criterion).criterion == criterion
