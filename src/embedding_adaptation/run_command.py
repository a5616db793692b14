"""``kedro run`` for people: an error is told once, in a sentence, and an interrupted run ends in order."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.project import settings
from kedro.utils import find_kedro_project, load_obj

from embedding_adaptation.errors import sentence, told_in_a_sentence
from embedding_adaptation.interruption import OrderlyEnd
from embedding_adaptation.tracking import end_open_runs
from embedding_adaptation.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNNERS = ("SequentialRunner", "ThreadRunner", "ParallelRunner")
VERBOSE_VARIABLE = "KEDRO_LOGGING"
_VERBOSE = click.Option(
    ["--verbose", "-v"], is_flag=True, help=f"Show the whole traceback of an error, as {VERBOSE_VARIABLE}=DEBUG in the environment does."
)
# Kedro logs an error where it meets it, before it raises it, and then says that no node has run.
_SAID_BEFORE: dict[str, int | str] = {
    "kedro.pipeline.node": logging.ERROR,
    "kedro.validation.parameter_validator": logging.ERROR,
    "kedro.runner.sequential_runner": "No nodes ran.",
    "kedro.runner.thread_runner": "No nodes ran.",
    "kedro.runner.parallel_runner": "No nodes ran.",
}


class UnusableCommandError(ValueError):
    """The command cannot be run as it was given; the message names what to change."""


class RunCommand(click.Command):
    """A run command whose errors are told in one sentence on stderr.

    Errors that are a fault in the code keep their traceback, and so do all with ``--verbose``. The exit code is 1, or 2 where click cannot
    read the command line; after a signal it is 128 + its number: 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        command: The run command, as Kedro or a plugin makes it.
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
        """Read the command line, and the file that it names by ``--config``.

        Raises:
            ClickException: If they cannot be read.
        """
        with _in_a_sentence(click.exceptions.Exit, click.UsageError):
            try:
                return super().make_context(info_name, args, parent, **extra)
            except KeyError as error:
                msg = f"the file of --config has no section {error}; its options stand below one of that name"
                raise click.ClickException(msg) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the pipelines.

        Raises:
            ClickException: In place of any error that a sentence tells.
        """
        if ctx.params.pop("verbose") or os.environ.get(VERBOSE_VARIABLE, "").upper() == "DEBUG":
            with OrderlyEnd(_end_as_killed):
                return super().invoke(ctx)
        with _said_once(), _in_a_sentence(click.exceptions.Exit), OrderlyEnd(_end_as_killed):
            _check_command(ctx.params)
            return super().invoke(ctx)


@contextmanager
def _in_a_sentence(*kept: type[BaseException]) -> Iterator[None]:
    """Turn errors that a sentence tells into click's, which print it; those of the kinds ``kept`` go on as they are."""
    try:
        yield
    except kept:
        raise
    except click.ClickException as error:
        raise click.ClickException(error.format_message()) from error  # Kedro's own kind would write to stdout
    except Exception as error:
        if not told_in_a_sentence(error):
            raise
        raise click.ClickException(sentence(error)) from error


def _end_as_killed(signal_name: str) -> None:
    click.echo(f"\nInterrupted ({signal_name}). The same command goes on from what is finished.", err=True)
    end_open_runs("KILLED", f"interrupted by {signal_name}")


def _check_command(options: dict[str, Any]) -> None:
    """Check what Kedro would answer with an error of its own workings.

    Raises:
        UnusableCommandError: If there is no such runner, configuration or environment.
    """
    runner = options.get("runner")
    if runner and "." not in runner and runner not in RUNNERS:
        msg = f"there is no runner {runner!r}; {nearest(runner, RUNNERS)}"
        raise UnusableCommandError(msg)
    if runner and "." in runner:
        try:
            load_obj(runner)
        except (ImportError, AttributeError, ValueError) as error:
            msg = f"there is no runner {runner!r} ({error}); name a class with its module, or one of {', '.join(RUNNERS)}"
            raise UnusableCommandError(msg) from error
    given = options.get("conf_source")
    source = Path(given) if given else (find_kedro_project(Path.cwd()) or Path.cwd()) / settings.CONF_SOURCE
    if not source.is_dir():
        if given:
            return  # an archive or an address: Kedro reads it
        msg = f"there is no configuration in {source}; unpack conf-{__package__}.tar.gz there, or name another folder with --conf-source"
        raise UnusableCommandError(msg)
    environment = options.get("env") or os.environ.get("KEDRO_ENV")
    there = [folder.name for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    if environment and environment not in there:
        msg = f"there is no environment {environment!r} in {source}; {nearest(environment, there)}"
        raise UnusableCommandError(msg)


@contextmanager
def _said_once() -> Iterator[None]:
    """Keep Kedro from logging an error that is told in the end anyway."""

    def is_new(record: logging.LogRecord) -> bool:
        said = _SAID_BEFORE[record.name]
        return not record.getMessage().startswith(said) if isinstance(said, str) else record.levelno < said

    loggers = [logging.getLogger(name) for name in _SAID_BEFORE]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)
