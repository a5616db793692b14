"""``kedro run`` for people: an error is reported once, in one sentence, and an interrupted run shuts down in order."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.project import settings
from kedro.utils import find_kedro_project, load_obj

from embedding_adaptation.errors import is_self_explanatory, sentence
from embedding_adaptation.interruption import OrderlyEnd
from embedding_adaptation.tracking import end_open_runs
from embedding_adaptation.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNNERS = ("SequentialRunner", "ThreadRunner", "ParallelRunner")
VERBOSE_VARIABLE = "KEDRO_LOGGING"
_VERBOSE = click.Option(
    ["--verbose", "-v"],
    is_flag=True,
    help=f"Show all datasets loaded and saved, and the full traceback of an error, like {VERBOSE_VARIABLE}=DEBUG in the environment.",
)
# What Kedro says of every dataset and node: hundreds of lines, among which those that matter are lost.
_TALKATIVE = ("kedro.io.data_catalog", "kedro.pipeline.node", "kedro.runner", "kedro.framework.session.session")
# Kedro logs an error before raising it, and then adds that no nodes ran.
_ALREADY_LOGGED: dict[str, int | str] = {
    "kedro.pipeline.node": logging.ERROR,
    "kedro.validation.parameter_validator": logging.ERROR,
    "kedro.runner.sequential_runner": "No nodes ran.",
    "kedro.runner.thread_runner": "No nodes ran.",
    "kedro.runner.parallel_runner": "No nodes ran.",
}


class UnusableCommandError(ValueError):
    """A command that cannot be run as given; the message says what to change."""


class RunCommand(click.Command):
    """A run command that reports errors in one sentence on stderr.

    Bugs keep their traceback, and with ``--verbose`` so does every error. The exit code is 1, or 2 if click cannot parse the command line;
    after a signal it is 128 plus its number: 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        command: The run command of Kedro or a plugin.
    """

    def __init__(self, command: click.Command) -> None:
        super().__init__(
            command.name,
            callback=command.callback,
            params=[*command.params, _VERBOSE],
            help=command.help,
            short_help=command.short_help,
            context_settings=command.context_settings,
        )

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        """Parse the command line and the file given with ``--config``.

        Raises:
            ClickException: If one of them cannot be parsed.
        """
        with in_a_sentence(click.exceptions.Exit, click.UsageError):
            try:
                return super().make_context(info_name, args, parent, **extra)
            except KeyError as error:
                msg = f"the --config file has no section {error}; put its options in a section of that name"
                raise click.ClickException(msg) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the pipelines.

        Raises:
            ClickException: In place of any error that one sentence explains.
        """
        if ctx.params.pop("verbose") or os.environ.get(VERBOSE_VARIABLE, "").upper() == "DEBUG":
            with OrderlyEnd(_end_as_killed):
                return super().invoke(ctx)
        with quiet_kedro(), _logged_once(), in_a_sentence(click.exceptions.Exit), OrderlyEnd(_end_as_killed):
            _check_command(ctx.params)
            return super().invoke(ctx)


@contextmanager
def in_a_sentence(*passed: type[BaseException]) -> Iterator[None]:
    """Turn errors that one sentence explains into click's, which prints it; errors of the types ``passed`` pass unchanged."""
    try:
        yield
    except passed:
        raise
    except click.ClickException as error:
        raise click.ClickException(error.format_message()) from error  # Kedro's subclass would write to stdout
    except Exception as error:
        if not is_self_explanatory(error):
            raise
        raise click.ClickException(sentence(error)) from error


def _end_as_killed(signal_name: str) -> None:
    click.echo(f"\nInterrupted ({signal_name}). Run the same command again to continue from what is finished.", err=True)
    end_open_runs("KILLED", f"interrupted by {signal_name}")


def _check_command(options: dict[str, Any]) -> None:
    """Check what Kedro would otherwise report with an internal error.

    Raises:
        UnusableCommandError: If the runner, configuration or environment does not exist.
    """
    runner = options.get("runner")
    if runner and "." not in runner and runner not in RUNNERS:
        msg = f"unknown runner {runner!r}; {nearest(runner, RUNNERS)}"
        raise UnusableCommandError(msg)
    if runner and "." in runner:
        try:
            load_obj(runner)
        except (ImportError, AttributeError, ValueError) as error:
            msg = f"unknown runner {runner!r} ({error}); give the full path of a class, or choose from {', '.join(RUNNERS)}"
            raise UnusableCommandError(msg) from error
    conf_source = options.get("conf_source")
    source = Path(conf_source) if conf_source else (find_kedro_project(Path.cwd()) or Path.cwd()) / settings.CONF_SOURCE
    if not source.is_dir():
        if conf_source:
            return  # an archive or a URL, which Kedro reads
        msg = f"no configuration in {source}; unpack conf-{__package__}.tar.gz there, or give another folder with --conf-source"
        raise UnusableCommandError(msg)
    environment = options.get("env") or os.environ.get("KEDRO_ENV")
    environments = [folder.name for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    if environment and environment not in environments:
        msg = f"unknown environment {environment!r} in {source}; {nearest(environment, environments)}"
        raise UnusableCommandError(msg)


@contextmanager
def quiet_kedro() -> Iterator[None]:
    """Let Kedro report warnings and errors only; :class:`~embedding_adaptation.hooks.Progress` says where a run is."""
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    for name in levels:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _logged_once() -> Iterator[None]:
    """Keep Kedro from logging an error that is reported at the end anyway."""

    def is_new(record: logging.LogRecord) -> bool:
        rule = _ALREADY_LOGGED[record.name]
        return not record.getMessage().startswith(rule) if isinstance(rule, str) else record.levelno < rule

    loggers = [logging.getLogger(name) for name in _ALREADY_LOGGED]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)
