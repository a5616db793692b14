from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from embedding_adaptation.pipelines.clustering_evaluation.scoring import (
    labelled_texts_task,
    mteb_scores,
    preserved_random_state,
    random_vectors,
    unique_document_scores,
)

TEXTS = [f"text {n}" for n in range(90)]
LABELS = [str(n % 3 - 1) for n in range(90)]  # "-1" is a label like any other


def clustered(noise):
    rng = np.random.default_rng(0)
    centres = {label: rng.normal(size=8) for label in ("-1", "0", "1")}
    return np.stack([centres[label] + noise * rng.normal(size=8) for label in LABELS]).astype(np.float32)


@pytest.fixture(scope="module")
def noisy():
    return clustered(1.5)


@pytest.mark.slow
def test_the_score_is_that_of_mteb_itself_with_the_same_vectors(noisy):
    import mteb
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder

    class Direct(AbsEncoder):
        mteb_model_meta = ModelMeta.create_empty(overwrites={"name": "test/direct", "revision": "1"})

        def encode(self, inputs, **kwargs):
            return np.stack([noisy[int(text.split()[1])] for batch in inputs for text in batch["text"]])

    result = mteb.evaluate(Direct(), [labelled_texts_task(TEXTS, LABELS, 1)], cache=None, show_progress_bar=False)
    expected = result.task_results[0].scores["test"][0]
    v_measure, spread = mteb_scores(noisy, TEXTS, LABELS, 1)
    assert v_measure == pytest.approx(expected["v_measure"], abs=1e-6)
    assert spread == pytest.approx(expected["v_measure_std"], abs=1e-6)
    assert len(expected["v_measures"]["Level 0"]) == 10


@pytest.mark.slow
def test_scores_do_not_depend_on_what_was_scored_before(noisy):
    first = mteb_scores(noisy, TEXTS, LABELS, 0)
    mteb_scores(clustered(0.1), TEXTS, LABELS, 0)
    assert mteb_scores(noisy, TEXTS, LABELS, 0) == first
    assert mteb_scores(noisy, TEXTS, LABELS, 2) != first


def test_random_state_is_put_back_even_after_an_error():
    def draws():
        return random.random(), np.random.random(), torch.rand(1).item()

    def seed_all(seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def disturb_and_fail():
        with preserved_random_state():
            labelled_texts_task(TEXTS, LABELS, 7)
            seed_all(9)
            raise RuntimeError

    seed_all(1)
    expected = draws()
    seed_all(1)
    with pytest.raises(RuntimeError):
        disturb_and_fail()
    assert draws() == expected


def test_unique_scores_know_the_perfect_and_the_meaningless_clustering():
    perfect = unique_document_scores(clustered(0.01), TEXTS, LABELS, 0)
    assert perfect == pytest.approx({"v_measure_unique": 1.0, "ami_unique": 1.0})
    chance = unique_document_scores(random_vectors(TEXTS, 8, 0), TEXTS, LABELS, 0)
    assert abs(chance["ami_unique"]) < 0.1


def test_copies_of_a_document_count_once(noisy):
    once = unique_document_scores(noisy, TEXTS, LABELS, 0)
    doubled = unique_document_scores(np.concatenate([noisy, noisy[:30]]), TEXTS + TEXTS[:30], LABELS + LABELS[:30], 0)
    assert doubled == once


def test_random_vectors_are_unit_vectors_the_same_for_equal_texts():
    vectors = random_vectors(["a", "b", "a"], 16, 3)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    assert not np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors, random_vectors(["a", "b", "a"], 16, 4))
