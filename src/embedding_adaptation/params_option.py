"""The option ``--params`` of a command, read as :mod:`embedding_adaptation.parameters` says."""

from __future__ import annotations

import copy
from typing import Any

import click

from embedding_adaptation.parameters import ParameterError, split_parameters

_HELP = """Parameters for this run: NAME=VALUE,GROUP.NAME=VALUE. A value that holds a comma goes in quotes:
--params "corpus='a, b.csv',text_clustering.clusters=8". Relative paths start at the project's root."""


def with_own_parameters(command: click.Command) -> click.Command:
    """A copy of Kedro's command whose ``--params`` this project reads."""
    changed = copy.copy(command)
    changed.params = [copy.copy(option) for option in command.params]
    for option in changed.params:
        if isinstance(option, click.Option) and option.name == "params":
            option.callback, option.help = _read, _HELP
    return changed


def _read(context: click.Context, option: click.Parameter, value: Any) -> dict[str, Any]:  # noqa: ARG001  the interface of callbacks
    """Parameters from the command line, or from the file behind --config, where they are a mapping."""
    if isinstance(value, dict):
        return value
    try:
        return split_parameters(value)
    except ParameterError as error:
        raise click.UsageError(str(error), context) from error
