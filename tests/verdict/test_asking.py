from __future__ import annotations

import pandas as pd
import pytest

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.texts.stream import TextStream
from embedding_adaptation.verdict.asking import ask, questions_about
from embedding_adaptation.verdict.options import VerdictOptions
from embedding_adaptation.verdict.questions import Question

TEXTS = [
    f"the {word} in the {place} number {row}" for row in range(8) for word in ("bus", "water", "book") for place in ("street", "house")
]
CORPUS = TextStream.of(pd.DataFrame({"id": [str(row) for row in range(len(TEXTS))], "text": TEXTS}))
QUESTIONS = [Question(f"text {row}", "one", "other", "adapted" if row % 2 else "base") for row in range(20)]


def test_questions_are_about_texts_of_the_corpus_on_which_the_weights_disagree(tiny_adapted, tiny_weights, embedder_options):
    options = embedder_options()
    questions = questions_about(tiny_adapted, CORPUS, VerdictOptions(questions={"texts": 48, "count": 6}), options)
    assert 0 < len(questions) <= 6
    strategy = options.strategy(options.adapt, options.every_strategy[options.adapt])
    for weights, side in ((tiny_weights, "base"), (tiny_adapted, "adapted")):
        embedder = Embedder.load(weights, device="cpu", dtype="float32", max_length=options.max_length)
        for question in questions:
            text, first, second = embedder.encode([question.text, question.first, question.second], strategy, progress=False)
            assert (text @ first > text @ second) == (question.first_is == side)


def test_asking_ends_as_soon_as_it_is_decided(tiny_adapted):
    seen = []

    def choose(number, question):
        seen.append(number)
        return "first" if question.first_is == "adapted" else "second"

    given = ask(tiny_adapted, QUESTIONS, VerdictOptions(), choose)
    assert given == {"adapter": tiny_adapted.fingerprint(), "answers": ["adapted"] * 5}
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stop", [1, 4])
def test_a_person_may_stop(tiny_adapted, stop):
    given = ask(tiny_adapted, QUESTIONS, VerdictOptions(), lambda number, question: None if number > stop else "neither")
    assert given["answers"] == ["neither"] * stop
