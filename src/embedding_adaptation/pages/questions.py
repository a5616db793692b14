"""Questions on a page: what its script needs to put them, to count answers as the terminal does, and to write them to a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedding_adaptation.pages.long_texts import cut
from embedding_adaptation.verdict.judging import COUNTED, SAID, UNDECIDED, weight_and_bound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedding_adaptation.verdict.options import QuestionsOptions

ANSWERS_FILE = "answers.json"
_TEXTS = ("text", "first", "second")


def questions_data(table: Mapping[str, Any], options: QuestionsOptions) -> dict[str, Any]:
    """Questions for the page's script.

    Args:
        table: ``adapter`` and ``questions``, see :func:`~embedding_adaptation.verdict.questions.questions_table`.
        options: When answers decide.

    Returns:
        ``adapter`` and ``questions``, with long texts cut, to be written with the answers; ``weight`` and ``bound`` of the sequential test;
        ``file``; and ``words`` for its result.
    """
    weight, bound = weight_and_bound(options)
    questions = [{**question, **{name: cut(question[name]) for name in _TEXTS}} for question in table["questions"]]
    return {
        "adapter": table["adapter"],
        "questions": questions,
        "weight": weight,
        "bound": bound,
        "file": ANSWERS_FILE,
        "words": {"counted": COUNTED, "undecided": UNDECIDED, "adapted": SAID["better"], "base": SAID["worse"]},
    }
