from __future__ import annotations

import json

import pytest

from embedding_adaptation.ask_command import read_answers
from embedding_adaptation.pages.questions import questions_data
from embedding_adaptation.verdict.options import QuestionsOptions
from embedding_adaptation.verdict.questions import Question, questions_table

LONG = Question("x" * 5000, "y" * 1000, "z", "base")


def test_long_texts_are_cut_and_still_fit_the_file_of_answers(tmp_path):
    data = questions_data(questions_table("this", [LONG]), QuestionsOptions())
    (question,) = data["questions"]
    assert (question["text"], question["first"], question["second"]) == ("x" * 999 + "…", "y" * 1000, "z")
    (tmp_path / data["file"]).write_text(json.dumps({"adapter": data["adapter"], "questions": [question | {"answer": "second"}]}))
    assert read_answers(tmp_path / data["file"], "this")["answers"] == ["adapted"]


def test_the_test_is_that_of_the_options():
    strict, lax = (questions_data(questions_table("this", []), QuestionsOptions(error=error)) for error in (0.01, 0.1))
    assert strict["bound"] > lax["bound"]
    assert strict["weight"] == lax["weight"] == pytest.approx(0.619, abs=1e-3)
