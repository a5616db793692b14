from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from embedding_adaptation.pipelines.clustering_evaluation.comparators import random_source
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.options import ClusterCountOptions
from embedding_adaptation.pipelines.clustering_evaluation.scoring import (
    by_text,
    checked_vectors,
    evaluate_with_mteb,
    labelled_texts_task,
    mteb_scores,
    preserved_random_state,
    score_parts,
    unique_document_scores,
    unique_parts,
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
    assert perfect == pytest.approx(dict.fromkeys(("v_measure_unique", "ami_unique", "ari_unique", "accuracy_unique"), 1.0))
    chance = unique_document_scores(random_source(0)(TEXTS), TEXTS, LABELS, 0)
    assert abs(chance["ami_unique"]) < 0.1
    assert abs(chance["ari_unique"]) < 0.1


def test_copies_of_a_document_count_once(noisy):
    once = unique_document_scores(noisy, TEXTS, LABELS, 0)
    doubled = unique_document_scores(np.concatenate([noisy, noisy[:30]]), TEXTS + TEXTS[:30], LABELS + LABELS[:30], 0)
    assert doubled == once


def test_the_number_of_clusters_is_estimated_beside_the_true_one():
    parts = unique_parts(TEXTS, LABELS)
    scores = score_parts(parts, by_text(TEXTS, clustered(0.1)), 0, cluster_count=ClusterCountOptions(candidates=10, max_documents=50))
    assert scores.metrics["clusters_estimated"] == 3
    assert scores.metrics["ami_estimated"] == pytest.approx(1.0)
    assert scores.resampled == {}


def test_a_hierarchy_is_scored_level_by_level_without_those_that_have_no_label_there(noisy):
    labels = [[label, f"{label}{n % 2}"] if n % 5 else [label] for n, label in enumerate(LABELS)]
    parts = unique_parts(TEXTS, labels)
    assert [(part.title, len(part.texts), part.clusters) for part in parts] == [("level 1", 90, 3), ("level 2", 72, 6)]
    scores = score_parts(parts, by_text(TEXTS, noisy), 0, resamples=100)
    levels = [scores.by_part[title]["ami_unique"] for title in ("level 1", "level 2")]
    assert scores.metrics["ami_unique"] == pytest.approx(np.mean(levels))
    assert scores.resampled["ami_unique"].shape == (100,)
    (alone,) = unique_parts(TEXTS, LABELS)
    assert scores.by_part["level 1"] == score_parts([alone], by_text(TEXTS, noisy), 0).metrics


def test_copies_and_contradictions_and_singletons_are_counted():
    (part,) = unique_parts(["a", "b", "a", "c", "b", "d"], ["x", "y", "x", "z", "x", "y"])
    assert part.texts == ("a", "b", "c", "d")
    assert part.labels.tolist() == ["x", "y", "z", "y"]
    assert (part.copies, part.contradictions, part.singletons) == (2, 1, 2)


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "b"], ["x", "x"], "have 1 label; scoring a clustering needs at least two"),
        (["a", "b", "a"], ["x", "y", "z"], "each of the 2 distinct documents has its own label"),
        (["a", "b", "c"], [["x", "p"], ["x", "p"], ["y"]], "the 2 distinct documents at level 2 have 1 label"),
    ],
)
def test_labels_that_no_clustering_can_be_judged_by_are_refused(texts, labels, message):
    with pytest.raises(EvaluationError, match=message):
        unique_parts(texts, labels)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_with_a_way_out(noisy, value):
    broken = noisy.copy()
    broken[[3, 5], 1] = value
    with pytest.raises(EvaluationError, match=r"2 of 90 vectors have values that are not finite \(first: text 4\); embed again with"):
        checked_vectors(broken)
    with pytest.raises(EvaluationError, match="not finite"):
        unique_document_scores(broken, TEXTS, LABELS, 0)


def test_empty_texts_are_documents_like_any_other(noisy):
    texts = ["", *TEXTS[1:]]
    assert unique_document_scores(noisy, texts, LABELS, 0) == unique_document_scores(noisy, TEXTS, LABELS, 0)


@pytest.mark.slow
def test_the_texts_that_mteb_asks_for_are_noted(noisy):
    _, seen = evaluate_with_mteb(labelled_texts_task(TEXTS, LABELS, 0), by_text(TEXTS, noisy))
    assert seen == {("test", "default"): TEXTS}
