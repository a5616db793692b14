from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from embedding_adaptation.ask_command import UnusableAnswersError, put, read_answers, write_questions
from embedding_adaptation.verdict.questions import Question

QUESTIONS = [Question("a", "b", "c", "adapted"), Question("d", "e", "f", "base"), Question("g", "h", "i", "base")]


def answered(file, *answers, adapter="this"):
    write_questions(file, adapter, QUESTIONS)
    table = json.loads(file.read_text())
    for question, answer in zip(table["questions"], answers, strict=False):
        if answer is not None:
            question["answer"] = answer
    file.write_text(json.dumps(table))
    return file


def test_answers_are_those_of_the_sides_and_unanswered_questions_are_left_out(tmp_path):
    given = read_answers(answered(tmp_path / "a.json", "first", None, "second"), "this")
    assert given == {"adapter": "this", "answers": ["adapted", "adapted"]}
    assert read_answers(answered(tmp_path / "a.json", "neither"), "this")["answers"] == ["neither"]


@pytest.mark.parametrize(
    ("answers", "adapter", "message"),
    [
        (["first"], "another", "are about another adapter; write new ones with 'kedro ask --save-questions FILE'"),
        (["first", "left"], "this", "question 2 has answer 'left'; write first, second or neither"),
        ([], "this", 'has no answers; add "answer"'),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, answers, adapter, message):
    with pytest.raises(UnusableAnswersError, match=message):
        read_answers(answered(tmp_path / "a.json", *answers, adapter=adapter), "this")


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"questions": [{"text": "a"}], "adapter": "this"}', '{"adapter": "this"}'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UnusableAnswersError, match=r"a\.json is not a file of questions"):
        read_answers(tmp_path / "a.json", "this")


@pytest.mark.parametrize(("typed", "choice"), [("a", "first"), ("b", "second"), ("n", "neither"), ("q", None), ("x\nb", "second")])
def test_a_question_is_put_until_it_is_answered(typed, choice):
    chosen = []

    @click.command()
    def command():
        chosen.append(put(4, QUESTIONS[0]))

    result = CliRunner().invoke(command, input=f"{typed}\n")
    assert result.exit_code == 0
    assert chosen == [choice]
    assert "4. a\n   A: b\n   B: c" in result.output
    assert "adapted" not in result.output  # which is which is not said
