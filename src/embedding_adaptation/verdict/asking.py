"""Ask a person which of two models is better, by a few texts on which they disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedding_adaptation.runtime import build_strategy, load_embedder, read_once
from embedding_adaptation.verdict.judging import sequential_decision
from embedding_adaptation.verdict.questions import Question, disagreements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.runtime import VectorMemory
    from embedding_adaptation.texts.stream import TextStream
    from embedding_adaptation.verdict.options import VerdictOptions


def questions_about(
    adapter: DecoderWeights,
    corpus: TextStream,
    options: VerdictOptions,
    embedder_options: EmbedderOptions,
    memory: VectorMemory | None = None,
) -> list[Question]:
    """The texts of a corpus on which base and adapted model disagree most, under the strategy that was trained.

    Args:
        adapter: The adapted weights.
        corpus: Unlabelled texts.
        options: How many texts to look at, and how many questions to find.
        embedder_options: Names the strategy.
        memory: Where vectors are kept; ``None`` reads all texts.
    """
    asked = options.questions
    texts = list(dict.fromkeys(corpus.sample(asked.texts, options.seed)["text"].tolist()))
    embedder, strategy = load_embedder(adapter, embedder_options), build_strategy(embedder_options.adapt, embedder_options)
    base, adapted = (read_once(embedder, texts, [strategy], memory, without_adapter=without)[strategy.name] for without in (True, False))
    return disagreements(texts, base, adapted, count=asked.count, among=asked.among, seed=options.seed)


def ask(
    adapter: DecoderWeights, questions: Sequence[Question], options: VerdictOptions, choose: Callable[[int, Question], str | None]
) -> dict[str, Any]:
    """Ask until the answers decide, or there are no more questions.

    Args:
        adapter: The adapted weights that the questions are about.
        questions: From :func:`questions_about`.
        options: When answers decide.
        choose: Puts a question, with its number from 1, to a person, and returns ``first``, ``second`` or ``neither``; ``None`` ends.

    Returns:
        ``adapter`` and ``answers``, what the dataset ``answers`` keeps and the pipeline ``adaptation_verdict`` reads.
    """
    answers: list[str] = []
    for number, question in enumerate(questions, 1):
        choice = choose(number, question)
        if choice is None:
            break
        answers.append(question.side(choice))
        if sequential_decision(answers, options.questions) is not None:
            break
    return {"adapter": adapter.fingerprint(), "answers": answers}
