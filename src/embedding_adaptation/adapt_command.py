"""``kedro adapt``: from a file of texts to an adapted model and a page about it, in one command."""

from __future__ import annotations

from typing import Any

import click

from embedding_adaptation.params_option import parsed_parameters
from embedding_adaptation.run_command import RunCommand

PIPELINE = "adapt"
# These need labels.
SCORING = ("embedding_extraction", "clustering_evaluation")


def adapt_command(run: RunCommand) -> click.Command:
    """The command, which is ``run`` with the pipelines and parameters that a file of texts needs."""

    @click.command(name="adapt")
    @click.argument("texts", type=click.Path())
    @click.option("--column", default="text", show_default=True, help="Column of the texts, unless the file is a .txt.")
    @click.option("--labels", help="Column of the labels, if there are any: strategies are then scored, too.")
    @click.option("--labelled", type=click.Path(), help="File with the labelled texts, if they are not in TEXTS.")
    @click.option("--model", help="Base model: a Hub id, a folder or a .gguf file; the configuration's otherwise.")
    @click.option(
        "--output", type=click.Path(file_okay=False), help="Folder for everything that is written; the configuration's otherwise."
    )
    @click.option("--env", "-e", help="Kedro's configuration environment.")
    @click.option("--params", default="", callback=parsed_parameters, help="Further parameters, as for kedro run.")
    @click.option("--verbose", "-v", is_flag=True, help="Show all datasets loaded and saved, and the full traceback of an error.")
    @click.pass_context
    def adapt(context: click.Context, /, *, env: str | None, verbose: bool, **arguments: Any) -> None:
        """Adapt the base model to the texts in the file TEXTS, and show what that changed.

        Writes the adapted model, a verdict on whether adaptation helped, and a page with a map of the texts and their themes.
        """
        pipelines, parameters = plan(**arguments)
        options = [f"--pipelines={','.join(pipelines)}", *([f"--env={env}"] if env else []), *(["--verbose"] if verbose else [])]
        with run.make_context("run", options, parent=context) as running:
            running.params["params"] = parameters
            run.invoke(running)

    return adapt


def plan(
    *,
    texts: str,
    column: str,
    labels: str | None,
    labelled: str | None,
    model: str | None,
    output: str | None,
    params: dict[str, Any],
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The pipelines to run, and their parameters.

    Args:
        texts: File of texts.
        column: Column of the texts.
        labels: Column of the labels, if there are any.
        labelled: File of labelled texts; ``None`` takes ``texts``.
        model: Base model.
        output: Folder for what is written.
        params: Further parameters, which take precedence.

    Raises:
        click.UsageError: If a file of labelled texts is given without its column of labels.
    """
    if labelled and not labels:
        msg = f"--labelled={labelled} needs --labels, the column of the labels in that file"
        raise click.UsageError(msg)
    parameters: dict[str, Any] = {"corpus": texts, "corpus_column": column}
    if labels:
        parameters |= {"labelled_texts": labelled or texts, "text_column": column, "label_column": labels}
    parameters |= {name: value for name, value in {"base_model": model, "output": output}.items() if value}
    return (PIPELINE, *(SCORING if labels else ())), parameters | params
