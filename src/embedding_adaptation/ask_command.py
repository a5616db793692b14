"""``kedro ask``: a few questions, whose answers tell whether adaptation helped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedding_adaptation import commands
from embedding_adaptation.params_option import parsed_parameters
from embedding_adaptation.run_command import in_a_sentence, quiet_kedro

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext

    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.verdict.options import VerdictOptions
    from embedding_adaptation.verdict.questions import Question

_CHOICES = {"a": "first", "b": "second", "n": "neither"}
_STOP = "q"


class UnusableAnswersError(ValueError):
    """A file of answers that does not fit; the message says what to change."""


@click.command()
@click.option("--count", type=click.IntRange(min=1), help="Maximum number of questions; the configuration's otherwise.")
@click.option("--save-questions", type=click.Path(dir_okay=False, path_type=Path), help="Write questions to this JSON file; ask nothing.")
@click.option("--answers", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take answers from that file; ask nothing.")
@click.option("--env", "-e", help="Kedro's configuration environment.")
@click.option("--params", default="", callback=parsed_parameters, help="Parameters, as for kedro run.")
def ask(count: int | None, save_questions: Path | None, answers: Path | None, env: str | None, params: dict[str, Any]) -> None:
    """Compare base and adapted model by questions: is a text closer to A or to B?

    Only texts on which the two disagree are shown, without saying which is which. After a few answers it is usually decided; the verdict is
    saved, and 'kedro run --pipelines=model_export' then exports the better one. With --save-questions, questions go to a file: add
    "answer": "first", "second" or "neither" to each, and give the file back with --answers.

    Raises:
        UnusableAnswersError: If the file of answers is not one of answers about this adapter.
    """
    with quiet_kedro(), in_a_sentence(click.exceptions.Exit, click.exceptions.Abort):
        from kedro.framework.session import KedroSession

        from embedding_adaptation.datasets.adapter import read_adapter_card
        from embedding_adaptation.parameters import read_options
        from embedding_adaptation.verdict import asking
        from embedding_adaptation.verdict.judging import verdict_on

        with KedroSession.create(env=env, runtime_params=params) as session:
            context: KedroContext = session.load_context()  # type: ignore[attr-defined]  # missing in its class
            catalog, settings = context.catalog, context.params
            options: VerdictOptions = read_options("adaptation_verdict", settings["adaptation_verdict"])  # type: ignore[assignment]
            if count is not None:
                options = options.model_copy(update={"questions": options.questions.model_copy(update={"count": count})})
            adapter: DecoderWeights = catalog.load("adapter")
            if answers is not None:
                given = read_answers(answers, adapter.fingerprint())
            else:
                embedder_options: Any = read_options("embedder", settings["embedder"])
                questions = asking.questions_about(
                    adapter, catalog.load("clean_corpus"), options, embedder_options, catalog.load("embedding_store")
                )
                if save_questions is not None:
                    write_questions(save_questions, adapter.fingerprint(), questions)
                    click.echo(f"{len(questions)} questions in {save_questions}: add answers, then run 'kedro ask --answers FILE'.")
                    return
                if not questions:
                    click.echo("Base and adapted model agree on all texts: there is nothing to ask.")
                    return
                click.echo("Is the text closer to A or to B? Answer a, b, n (neither, or both alike), or q to stop.")
                given = asking.ask(adapter, questions, options, put)
            catalog.save("answers", given)
            verdict = verdict_on(adapter.fingerprint(), read_adapter_card(adapter).get("scales", []), given, options)
            catalog.save("verdict", verdict)
            commands.remember(env, params)
            export = commands.going_on("kedro run --pipelines=model_export", commands.EXPORT)
            click.echo(f"\n{verdict['sentence']}\nTo export accordingly: {export}")


def put(number: int, question: Question) -> str | None:
    """Put a question to the person at the terminal; ``None`` if they want to stop."""
    click.echo(f"\n{number}. {question.text}\n   A: {question.first}\n   B: {question.second}")
    answer = click.prompt("  ", type=click.Choice([*_CHOICES, _STOP]), show_choices=True, prompt_suffix=" ")
    return _CHOICES.get(answer)


def write_questions(file: Path, adapter: str, questions: list[Question]) -> None:
    """Write questions for another program, such as a page, to answer."""
    from embedding_adaptation.verdict.questions import questions_table

    table = questions_table(adapter, questions)
    file.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_answers(file: Path, adapter: str) -> dict[str, Any]:
    """Read answered questions; those without an answer are left out.

    Args:
        file: A file from :func:`write_questions`, with ``answer`` added to questions.
        adapter: Fingerprint of the adapter they must be about.

    Raises:
        UnusableAnswersError: If it is another kind of file, about another adapter, or has an unknown answer.
    """
    from embedding_adaptation.verdict.questions import Question

    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        rows = [(Question(row["text"], row["first"], row["second"], row["first_is"]), row.get("answer")) for row in table["questions"]]
        about = table["adapter"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{file} is not a file of questions ({error}); write one with 'kedro ask --save-questions FILE'"
        raise UnusableAnswersError(msg) from error
    if about != adapter:
        msg = f"the questions in {file} are about another adapter; write new ones with 'kedro ask --save-questions FILE'"
        raise UnusableAnswersError(msg)
    answered = []
    for number, (question, answer) in enumerate(rows, 1):
        if answer is None:
            continue
        if answer not in _CHOICES.values():
            msg = f"{file}: question {number} has answer {answer!r}; write first, second or neither, or leave it out"
            raise UnusableAnswersError(msg)
        answered.append(question.side(answer))
    if not answered:
        msg = f'{file} has no answers; add "answer": "first", "second" or "neither" to its questions'
        raise UnusableAnswersError(msg)
    return {"adapter": adapter, "answers": answered}
