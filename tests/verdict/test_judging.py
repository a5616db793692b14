from __future__ import annotations

import json
import math

import numpy as np
import pytest

from embedding_adaptation.verdict.judging import sequential_decision, verdict_by_agreement, verdict_on
from embedding_adaptation.verdict.options import QuestionsOptions, VerdictOptions

OPTIONS = VerdictOptions(margin=0.02, unchanged=0.15)


def scales(base, adapted, kept=1.0, change=0.4):
    return [
        {"scale": 0.0, "agreement": base, "change": 0.0, "chosen": float(kept == 0)},
        {"scale": kept or 1.0, "agreement": adapted, "change": change, "chosen": float(kept > 0)},
    ]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (scales(0.3, 0.4), "better"),
        (scales(0.3, 0.35, kept=0.5), "better"),
        (scales(0.4, 0.3), "worse"),
        (scales(0.4, 0.3, kept=0.0), "worse"),
        (scales(0.4, 0.39, kept=0.0), "no_difference"),
        (scales(0.4, 0.41, change=0.1), "no_difference"),
        (scales(0.4, 0.41, change=0.4), "cannot_tell"),
        ([], "cannot_tell"),
    ],
)
def test_the_verdict_follows_the_change_of_agreement(measured, verdict):
    assert verdict_by_agreement(measured, OPTIONS) == verdict


def test_of_few_texts_it_cannot_be_told_without_answers():
    few = [row | {"texts": 99.0} for row in scales(0.2, 0.4)]
    judged = verdict_on("a", few, {}, OPTIONS)
    assert (judged["verdict"], judged["ship"], judged["decided_by"]) == ("cannot_tell", "base", "nothing")
    assert "cannot be told whether adaptation helps (99 texts are too few to measure it; 'kedro ask' asks you)" in judged["sentence"]
    assert verdict_on("a", few, {"adapter": "a", "answers": ["adapted"] * 5}, OPTIONS)["verdict"] == "better"
    assert verdict_on("a", [row | {"texts": 100.0} for row in few], {}, OPTIONS)["verdict"] == "better"


def test_answers_decide_over_what_was_measured():
    judged = verdict_on("a", scales(0.4, 0.3), {"adapter": "a", "answers": ["adapted"] * 5}, OPTIONS)
    assert (judged["verdict"], judged["ship"], judged["decided_by"]) == ("better", "adapted", "answers")
    assert judged["sentence"].startswith("Without labels: the adapted model is better than the base model (answers: 5 for the adapted")


def test_answers_that_do_not_decide_leave_the_verdict_to_what_was_measured():
    judged = verdict_on("a", scales(0.3, 0.4), {"adapter": "a", "answers": ["base", "neither", "base"]}, OPTIONS)
    assert (judged["verdict"], judged["ship"], judged["decided_by"]) == ("better", "adapted", "agreement")
    assert judged["answers"] == {"base": 2, "adapted": 0, "neither": 1}
    assert judged["sentence"].endswith("0 for the adapted model, 2 for the base model, 1 for neither, which does not decide).")


def test_answers_about_another_adapter_do_not_count():
    judged = verdict_on("a", scales(0.3, 0.4), {"adapter": "b", "answers": ["base"] * 9}, OPTIONS)
    assert (judged["verdict"], judged["decided_by"], judged["answers"]) == ("better", "agreement", None)
    assert json.loads(json.dumps(judged)) == judged


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (
            scales(0.3, 0.4, kept=0.5),
            "0.300 before and 0.400 after, 40% of nearest neighbours changed, 0.5 of the adapter is kept).",
        ),
        (scales(0.4, 0.3, kept=0.0), "the adapted model is worse than the base model"),
        ([], "it cannot be told whether adaptation helps (nothing was measured)."),
    ],
)
def test_the_sentence_gives_the_evidence(measured, said):
    assert said in verdict_on("a", measured, {}, OPTIONS)["sentence"]


def test_the_sequential_test_needs_as_many_answers_as_wald_says():
    options = QuestionsOptions(share=0.65, error=0.05)
    needed = math.ceil(math.log(0.95 / 0.05) / math.log(0.65 / 0.35))
    assert sequential_decision(["adapted"] * (needed - 1), options) is None
    assert sequential_decision(["adapted"] * needed, options) == "adapted"
    assert sequential_decision(["neither"] * 50 + ["base"] * needed, options) == "base"
    assert sequential_decision(["adapted"] * needed + ["base"] * 20, options) == "adapted"  # later answers change nothing
    assert sequential_decision(["adapted", "base"] * 40, options) is None


@pytest.mark.parametrize("share", [0.65, 0.8])
def test_decisions_are_wrong_no_more_often_than_asked_for(share):
    options, rng = QuestionsOptions(share=0.65, error=0.05), np.random.default_rng(0)
    decided = [
        sequential_decision(["adapted" if favourable else "base" for favourable in rng.random(200) < share], options) for _ in range(2000)
    ]
    assert decided.count("base") / len(decided) <= 0.05
    assert decided.count("adapted") / len(decided) > 0.9
