"""The ``--params`` option of a command, parsed by :mod:`embedding_adaptation.parameters`."""

from __future__ import annotations

import copy
from typing import Any

import click

from embedding_adaptation.parameters import ParameterError, split_parameters

_HELP = """Parameters for this run: NAME=VALUE,GROUP.NAME=VALUE. Quote a value that contains a comma:
--params "corpus='a, b.csv',text_clustering.clusters=8". Relative paths start at the project's root."""


def with_own_parameters(command: click.Command) -> click.Command:
    """Copy Kedro's command and let this project parse its ``--params``."""
    own = copy.copy(command)
    own.params = [copy.copy(option) for option in command.params]
    for option in own.params:
        if isinstance(option, click.Option) and option.name == "params":
            option.callback, option.help = parsed_parameters, _HELP
    return own


def parsed_parameters(context: click.Context, option: click.Parameter, value: Any) -> dict[str, Any]:  # noqa: ARG001  click's callback interface
    """Parameters from the command line, or from the file given with --config, where they are already a mapping."""
    if isinstance(value, dict):
        return value
    try:
        return split_parameters(value)
    except ParameterError as error:
        raise click.UsageError(str(error), context) from error
