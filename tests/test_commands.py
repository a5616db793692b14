from __future__ import annotations

import shlex

import pytest

from embedding_adaptation import commands
from embedding_adaptation.parameters import split_parameters


@pytest.fixture(autouse=True)
def _forget():
    yield
    commands.remember(None, None)


def test_a_plain_run_needs_nothing_said_again():
    commands.remember(None, {"seed": 3, "contrastive_finetuning": {"steps": 2}})
    assert commands.going_on("kedro ask", commands.QUESTIONS) == "kedro ask"


@pytest.mark.parametrize("file", ["my.csv", "my texts, new.csv", "it's #1.csv", 'a "b".csv'])
def test_what_the_run_was_given_is_said_again_so_that_it_is_read_as_it_was(file):
    given = {"corpus": file, "corpus_column": "body", "output": "there", "seed": 3, "text_clustering": {"clusters": 4}}
    commands.remember("cluster", given)
    first, second, *arguments = shlex.split(commands.going_on("kedro run", commands.EXPORT))
    assert (first, second) == ("kedro", "run")
    assert arguments[0] == "--env=cluster"
    assert arguments[1] == "--params"
    assert split_parameters(arguments[2]) == {"corpus": file, "corpus_column": "body", "output": "there"}
    assert shlex.split(commands.going_on("kedro ask", commands.QUESTIONS))[3:] == ["--params", "output=there"]


def test_private_files_are_not_named():
    commands.remember(None, {"corpus": "/home/me/patients.csv"})
    assert commands.going_on("kedro run", commands.EXPORT, private=True) == "kedro run --params corpus=YOUR_FILE"
