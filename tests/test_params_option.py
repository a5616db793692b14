from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project

from embedding_adaptation import cli


@pytest.fixture
def invoke(monkeypatch):
    """Run the command with a session that only notes what it was created with."""
    configure_project("embedding_adaptation")
    created = {}

    def create(cls, **arguments):
        created.update(arguments)
        return cls()

    session = type(
        "Session",
        (sys.modules["kedro.framework.cli.project"].KedroSession,),
        {
            "__init__": lambda self: None,
            "create": classmethod(create),
            "__enter__": lambda self: self,
            "__exit__": lambda self, *error: None,
            "run": lambda self, **arguments: {},
        },
    )
    monkeypatch.setattr("kedro.framework.cli.project.settings", SimpleNamespace(SESSION_CLASS=session))

    def run(*arguments):
        result = CliRunner().invoke(cli.run, list(arguments))
        return result, created

    return run


def test_parameters_reach_the_session_as_they_were_typed(invoke):
    result, created = invoke("--params", "corpus='~/a, b #1.txt',label_column=007,text_clustering.clusters=5")
    assert result.exit_code == 0, result.output
    assert created["runtime_params"] == {"corpus": "~/a, b #1.txt", "label_column": "007", "text_clustering": {"clusters": 5}}


def test_parameters_may_stand_in_a_file(invoke, tmp_path):
    file = tmp_path / "run.yml"
    file.write_text("run:\n  params:\n    corpus: a, b.txt\n    text_clustering: {clusters: 5}\n", encoding="utf-8")
    result, created = invoke("--config", str(file))
    assert result.exit_code == 0, result.output
    assert created["runtime_params"] == {"corpus": "a, b.txt", "text_clustering": {"clusters": 5}}


def test_a_comma_in_a_value_stops_the_command_and_says_how_to_write_it(invoke):
    result, created = invoke("--params", "corpus=a, b.txt")
    assert result.exit_code == 2
    assert "corpus='a, b.txt'" in result.output
    assert not created


def test_kedro_runs_this_command_and_its_own_is_left_alone():
    assert find_run_command("embedding_adaptation") is cli.run
    own, theirs = ({option.name: option for option in command.params} for command in (cli.run, kedro_run))
    assert own.keys() == theirs.keys() | {"verbose"}
    assert own["params"].callback is not theirs["params"].callback
    assert own["env"].callback is theirs["env"].callback
