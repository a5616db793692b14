from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.vectors.unit import unit_vectors
from embedding_adaptation.verdict.questions import Question, disagreements

RNG = np.random.default_rng(0)
COUNT = 60
KINDS = np.arange(COUNT) % 4
TEXTS = [f"text {row}" for row in range(COUNT)]
GOOD = unit_vectors((np.eye(4)[KINDS] + 0.2 * RNG.normal(size=(COUNT, 4))).astype(np.float32))
BAD = unit_vectors(RNG.normal(size=(COUNT, 4)).astype(np.float32))


def asked(base, adapted, **changes):
    return disagreements(TEXTS, base, adapted, **{"count": 20, "among": 5, "seed": 0} | changes)


def place(text):
    return TEXTS.index(text)


def test_each_model_finds_its_own_proposal_closer():
    questions = asked(BAD, GOOD)
    assert len(questions) == 20
    for question in questions:
        proposals = {question.first_is: question.first, question.side("second"): question.second}
        at, base, adapted = place(question.text), place(proposals["base"]), place(proposals["adapted"])
        assert len({at, base, adapted}) == 3
        assert BAD[at] @ BAD[base] > BAD[at] @ BAD[adapted]
        assert GOOD[at] @ GOOD[adapted] > GOOD[at] @ GOOD[base]


def test_answers_by_kind_are_for_the_better_model():
    sides = []
    for question in asked(BAD, GOOD):
        same = [KINDS[place(other)] == KINDS[place(question.text)] for other in (question.first, question.second)]
        sides.append(question.side("neither" if same[0] == same[1] else "first" if same[0] else "second"))
    assert sides.count("adapted") > 5 * max(sides.count("base"), 1)


def test_the_order_gives_nothing_away_and_depends_on_the_seed_alone():
    questions = asked(BAD, GOOD)
    assert {question.first_is for question in questions} == {"base", "adapted"}
    assert asked(BAD, GOOD) == questions
    assert asked(BAD, GOOD, seed=1) != questions


def test_models_that_agree_leave_nothing_to_ask():
    assert asked(GOOD, GOOD) == []
    assert asked(GOOD, 2 * GOOD) == []
    assert disagreements(TEXTS[:2], GOOD[:2], BAD[:2], count=5, among=3, seed=0) == []


@pytest.mark.parametrize(("choice", "side"), [("first", "adapted"), ("second", "base"), ("neither", "neither")])
def test_a_choice_is_for_a_side(choice, side):
    assert Question("a", "b", "c", "adapted").side(choice) == side
