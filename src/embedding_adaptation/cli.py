"""The project's own commands.

Kedro takes ``run`` from here for ``kedro run`` and, once the project is packaged, for ``python -m embedding_adaptation``; see
https://docs.kedro.org/en/stable/extend/common_use_cases/.
"""

from __future__ import annotations

import click
from kedro.framework.cli.project import run as kedro_run

from embedding_adaptation.adapt_command import adapt_command
from embedding_adaptation.ask_command import ask
from embedding_adaptation.params_option import with_own_parameters
from embedding_adaptation.prune_command import prune
from embedding_adaptation.run_command import RunCommand


@click.group(name="embedding-adaptation")
def cli() -> None:
    """The project's own commands."""


run = RunCommand(with_own_parameters(kedro_run))
cli.add_command(run)
cli.add_command(adapt_command(run))
cli.add_command(ask)
cli.add_command(prune)
