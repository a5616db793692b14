from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from embedding_adaptation.adapt_command import PIPELINE, SCORING, adapt_command, plan
from embedding_adaptation.run_command import RunCommand

NOTHING = {"labels": None, "labelled": None, "model": None, "output": None, "params": {}}


def test_texts_alone_are_adapted_to_and_labels_are_scored():
    assert plan(**NOTHING | {"texts": "a, b.csv", "column": "title"}) == ((PIPELINE,), {"corpus": "a, b.csv", "corpus_column": "title"})
    pipelines, parameters = plan(**NOTHING | {"texts": "a.csv", "column": "title", "labels": "kind"})
    assert pipelines == (PIPELINE, *SCORING)
    assert parameters["labelled_texts"] == "a.csv"
    assert (parameters["text_column"], parameters["label_column"]) == ("title", "kind")
    other = plan(**NOTHING | {"texts": "a.csv", "column": "title", "labels": "kind", "labelled": "b.csv"})[1]
    assert (other["corpus"], other["labelled_texts"]) == ("a.csv", "b.csv")


def test_further_parameters_win_and_labelled_texts_need_their_column():
    parameters = plan(**NOTHING | {"texts": "a", "column": "text", "model": "x/y", "output": "o", "params": {"seed": "1", "output": "p"}})[
        1
    ]
    assert parameters == {"corpus": "a", "corpus_column": "text", "base_model": "x/y", "output": "p", "seed": "1"}
    with pytest.raises(click.UsageError, match=r"--labelled=b\.csv needs --labels"):
        plan(**NOTHING | {"texts": "a", "column": "text", "labelled": "b.csv"})


def test_the_command_runs_what_it_planned():
    seen = {}

    @click.command()
    @click.option("--pipelines")
    @click.option("--env")
    @click.option("--params", default="")
    def run(**options):
        seen.update(options)

    result = CliRunner().invoke(adapt_command(RunCommand(run)), ["my, texts.csv", "--labels=kind", "-e", "base", "--params", "seed=3"])
    assert result.exit_code == 0, result.output
    assert seen["pipelines"] == ",".join((PIPELINE, *SCORING))
    assert seen["env"] == "base"
    assert seen["params"]["corpus"] == "my, texts.csv"
    assert seen["params"]["seed"] == "3"
