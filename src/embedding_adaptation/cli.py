"""The project's command line: Kedro's, with parameters read as they were typed (see :mod:`embedding_adaptation.parameters`)."""

from __future__ import annotations

import copy
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run

from embedding_adaptation.parameters import ParameterError, split_parameters

_PARAMS_HELP = """Parameters for this run: NAME=VALUE,GROUP.NAME=VALUE. A value that holds a comma goes in quotes:
--params "corpus='a, b.csv',text_clustering.clusters=8". Relative paths start at the project's root."""


def _read(context: click.Context, option: click.Parameter, value: Any) -> dict[str, Any]:  # noqa: ARG001  the interface of callbacks
    """Parameters from the command line, or from the file behind --config, where they are a mapping."""
    if isinstance(value, dict):
        return value
    try:
        return split_parameters(value)
    except ParameterError as error:
        raise click.UsageError(str(error), context) from error


def _with_own_parameters(command: click.Command) -> click.Command:
    """The command with its --params read by this project."""
    changed = copy.copy(command)
    changed.params = [copy.copy(option) for option in command.params]
    for option in changed.params:
        if isinstance(option, click.Option) and option.name == "params":
            option.callback, option.help = _read, _PARAMS_HELP
    return changed


@click.group(name="embedding-adaptation")
def cli() -> None:
    """The project's own commands."""


run = _with_own_parameters(kedro_run)
cli.add_command(run)
