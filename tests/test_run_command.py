from __future__ import annotations

import logging

import click
import pytest
from click.testing import CliRunner
from kedro.framework.cli.project import run as kedro_run
from kedro.io.core import DatasetError

from embedding_adaptation.cli import cli, run
from embedding_adaptation.run_command import RUNNERS, RunCommand


def command_that(raises: Exception) -> RunCommand:
    """A run command whose work logs its error, as Kedro does, and raises it."""

    def work(**options) -> None:
        logging.getLogger("kedro.pipeline.node").error("Node x failed with error: \n%s", raises)
        raise raises

    return RunCommand(click.Command("run", callback=work, params=[click.Option(["--env"]), click.Option(["--runner"])]))


@pytest.fixture(autouse=True)
def project_folder(tmp_path, monkeypatch):
    for name in ("base", "test"):
        (tmp_path / "conf" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("KEDRO_ENV", "KEDRO_LOGGING"):
        monkeypatch.delenv(name, raising=False)


def test_a_mistake_is_one_line_on_stderr_and_the_exit_code_is_1(caplog):
    result = CliRunner().invoke(command_that(DatasetError("x.csv does not exist;\ncheck the path")), [])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: x.csv does not exist; check the path\n")
    assert caplog.text == ""


@pytest.mark.parametrize(("arguments", "environment"), [(["--verbose"], {}), (["-v"], {}), ([], {"KEDRO_LOGGING": "debug"})])
def test_verbose_keeps_the_error_and_what_kedro_logs_of_it(arguments, environment, caplog):
    error = DatasetError("x.csv does not exist")
    result = CliRunner(env=environment).invoke(command_that(error), arguments)
    assert result.exception is error
    assert "Node x failed" in caplog.text


def test_a_fault_in_the_code_keeps_its_traceback():
    error = ZeroDivisionError("division by zero")
    result = CliRunner().invoke(command_that(error), [])
    assert result.exception is error


def test_what_kedro_logs_comes_back_after_the_run(caplog):
    CliRunner().invoke(command_that(DatasetError("x")), [])
    logging.getLogger("kedro.pipeline.node").error("of another run")
    assert "of another run" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runner=Parallelrunner"], "unknown runner 'Parallelrunner'; did you mean 'ParallelRunner'"),
        (["--runner=no_such.module.Runner"], "unknown runner 'no_such.module.Runner' (No module named 'no_such"),
        (["--runner=kedro.runner.Nobody"], "unknown runner 'kedro.runner.Nobody' ("),
        (["--env=tset"], "conf; did you mean 'test'?"),
        (["--env=zzz"], "conf; choose from base, test"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused_before_kedro_sees_it(arguments, message):
    result = CliRunner().invoke(command_that(AssertionError("kedro was called")), arguments)
    assert result.exit_code == 1
    assert message in result.stderr


def test_without_configuration_the_folder_is_named(tmp_path):
    (tmp_path / "conf").rename(tmp_path / "elsewhere")
    result = CliRunner().invoke(command_that(AssertionError("kedro was called")), [])
    assert f"no configuration in {tmp_path / 'conf'}" in result.stderr
    assert "conf-embedding_adaptation.tar.gz" in result.stderr


def test_a_configuration_file_without_the_section_or_with_a_wrong_key_is_told(tmp_path):
    (tmp_path / "options.yml").write_text("other: {env: test}\n")
    result = CliRunner().invoke(run, ["--config", "options.yml"], prog_name="run")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no section 'run'" in result.stderr


def test_the_command_takes_all_that_kedros_takes_and_verbose():
    names = {option.name for option in run.params}
    assert names == {option.name for option in kedro_run.params} | {"verbose"}
    assert set(cli.commands) == {"run", "adapt", "ask", "prune"}
    assert cli.commands["run"] is run
    assert all(hasattr(__import__("kedro.runner", fromlist=[name]), name) for name in RUNNERS)


def test_an_option_that_kedro_refuses_is_told_on_stderr(project, monkeypatch):
    monkeypatch.chdir(project)
    result = CliRunner().invoke(run, ["--load-versions=corpus"], prog_name="run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "corpus" in result.stderr


@pytest.mark.parametrize(("arguments", "shown"), [([], False), (["--verbose"], True)])
def test_what_kedro_says_of_every_dataset_is_shown_on_demand(arguments, shown, caplog):
    caplog.set_level("INFO")

    @click.command()
    def command():
        for name in ("kedro.io.data_catalog", "kedro.pipeline.node", "kedro.runner.sequential_runner"):
            logging.getLogger(name).info("said by %s", name)
            logging.getLogger(name).warning("a warning of %s", name)

    assert CliRunner().invoke(RunCommand(command), arguments).exit_code == 0
    assert caplog.text.count("said by") == (3 if shown else 0)
    assert caplog.text.count("a warning of") == 3
    logging.getLogger("kedro.io.data_catalog").info("said by the next")
    assert "said by the next" in caplog.text
