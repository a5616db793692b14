"""Filters that decide which candidates become positive pairs.

Verdicts depend only on scores and thresholds, and a rejected candidate names the first filter that rejected it.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from embedding_adaptation.identity import text_digest
from embedding_adaptation.texts.answers import has_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from embedding_adaptation.pipelines.data_augmentation.options import FilterOptions, FiltersOptions

ACCEPTED = "accepted"
REJECTED = "rejected"
REASONS = (
    "empty", "cut_off", "refusal", "preamble", "copy", "length_ratio", "language", "question", "repetition", "new_words", "lost_facts",
    "invented_facts", "drift", "duplicate",
)  # fmt: skip

_EXAMPLES = 3
_EXAMPLE_LENGTH = 300  # characters
_NO_STYLE = "all"  # the report's name for the only style of a generator without styles
_WORD_CHARACTER = re.compile(r"\w")


def judge(scored: pd.DataFrame, options: FiltersOptions, positives: Positives) -> pd.DataFrame:
    """Accept or reject candidates.

    Args:
        scored: Candidates with ``generator``, ``style``, ``finished`` and their scores (see :func:`.scoring.score`).
        options: Filters; each judges the candidates of its generators. Candidates without any word are always rejected.
        positives: The answers accepted so far, extended by those accepted now if the ``duplicate`` filter judges them.

    Returns:
        The candidates with ``reason`` (from :data:`REASONS`; empty if accepted) and ``verdict`` (accepted or rejected).
    """
    masks = dict(_rejections(scored, options))
    reasons = np.select(list(masks.values()), list(masks), default="")  # [N], the first that applies
    if options.duplicate is not None:
        remaining = np.flatnonzero((reasons == "") & _is_judged(scored, options.duplicate))
        is_new = positives.first_seen(answer_digests(scored["answer"].iloc[remaining]))
        reasons[remaining[~is_new]] = "duplicate"
    verdicts = np.where(reasons == "", ACCEPTED, REJECTED)
    return scored.assign(
        reason=pd.Series(reasons, index=scored.index, dtype=str),
        verdict=pd.Series(verdicts, index=scored.index, dtype=str),
    )


class Positives:
    """The answers accepted so far, as digests of eight bytes each, and twice that while some are added.

    Candidates may be added in parts: the outcome depends only on their order.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []  # sorted, each at least twice as long as the next

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def first_seen(self, digests: np.ndarray) -> np.ndarray:
        """Add answers.

        Args:
            digests: Digests from :func:`answer_digests`, in the order of the candidates.

        Returns:
            Which of them are new; among equal ones, only the first.
        """
        is_new = np.zeros(len(digests), bool)
        is_new[np.unique(digests, return_index=True)[1]] = True
        for run in self._runs:
            positions = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            is_new &= run[positions] != digests
        added = np.sort(digests[is_new])
        while self._runs and len(self._runs[-1]) < 2 * len(added):
            added = np.sort(np.concatenate([self._runs.pop(), added]), kind="stable")
        if len(added):
            self._runs.append(added)
        return is_new


def answer_digests(answers: Iterable[str]) -> np.ndarray:
    """Digests ``[N]`` of answers, ignoring case; different answers collide with probability 2^-64."""
    return np.frombuffer(b"".join(text_digest(answer.casefold(), 8) for answer in answers), np.uint64)


class Report:
    """Counts and examples of accepted and rejected candidates by generator and style; candidates may be added in parts."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._examples: dict[tuple[str, str, str], list[dict[str, str]]] = {}

    def add(self, judged: pd.DataFrame) -> None:
        """Count candidates that :func:`judge` has judged, and keep the first ones of each kind as examples."""
        self._counts.update(zip(judged["generator"], judged["style"], judged["reason"], strict=True))
        first = judged.groupby(["generator", "style", "reason"], sort=False).head(_EXAMPLES)
        columns = (first[name].tolist() for name in ("generator", "style", "reason", "source_text", "answer"))
        for generator, style, reason, source, answer in zip(*columns, strict=True):
            examples = self._examples.setdefault((generator, style, reason), [])
            if len(examples) < _EXAMPLES:
                examples.append({"source_text": source[:_EXAMPLE_LENGTH], "generated_text": answer[:_EXAMPLE_LENGTH]})

    def result(self) -> dict[str, Any]:
        """The report as plain values.

        Returns:
            ``candidates``, ``accepted``, ``acceptance`` (their share), ``rejected`` by reason; ``generators``, each with its own
            ``candidates``, ``accepted``, ``rejected`` by the reasons that occur, and the same for each of its ``styles``; and ``examples``
            by generator, style (``all`` without styles) and reason or ``accepted``.
        """
        total = self._tally()
        generators = sorted({generator for generator, _, _ in self._counts})
        examples: dict[str, dict[str, dict[str, list[dict[str, str]]]]] = {}
        for (generator, style, reason), rows in sorted(self._examples.items(), key=lambda item: _order(item[0])):
            examples.setdefault(generator, {}).setdefault(style or _NO_STYLE, {})[reason or ACCEPTED] = rows
        return {
            "candidates": total["candidates"],
            "accepted": total["accepted"],
            "acceptance": total["accepted"] / max(total["candidates"], 1),
            "rejected": {reason: total["rejected"].get(reason, 0) for reason in REASONS},
            "generators": {
                generator: self._tally(generator) | {"styles": {style: self._tally(generator, style) for style in self._styles(generator)}}
                for generator in generators
            },
            "examples": examples,
        }

    def _styles(self, generator: str) -> list[str]:
        return sorted({style for other, style, _ in self._counts if other == generator and style})

    def _tally(self, generator: str | None = None, style: str | None = None) -> dict[str, Any]:
        """Counts for one generator and style, or for all."""
        counts: Counter[str] = Counter()
        for (other_generator, other_style, reason), count in self._counts.items():
            if generator in {None, other_generator} and style in {None, other_style}:
                counts[reason] += count
        return {
            "candidates": counts.total(),
            "accepted": counts[""],
            "rejected": {reason: counts[reason] for reason in REASONS if counts[reason]},
        }


def _order(key: tuple[str, str, str]) -> tuple[str, str, int]:
    generator, style, reason = key
    return generator, style, REASONS.index(reason) if reason else -1


def _is_judged(scored: pd.DataFrame, options: FilterOptions) -> np.ndarray:
    return scored["generator"].isin(options.generators).to_numpy(bool)


def _rejections(scored: pd.DataFrame, options: FiltersOptions) -> Iterator[tuple[str, np.ndarray]]:
    """The candidates that each filter except ``duplicate`` rejects, in the order of the reasons."""

    def column(name: str) -> np.ndarray:
        return scored[name].to_numpy()

    yield "empty", np.array([_WORD_CHARACTER.search(answer) is None for answer in scored["answer"]], bool)
    if cut_off := options.cut_off:
        unfinished = np.flatnonzero(_is_judged(scored, cut_off) & ~column("finished").astype(bool))
        rejected = np.zeros(len(scored), bool)
        rejected[unfinished] = [not has_end(answer) for answer in scored["answer"].iloc[unfinished]]
        yield "cut_off", rejected
    if refusal := options.refusal:
        yield "refusal", _is_judged(scored, refusal) & (column("refusal") > 0)
        yield "preamble", _is_judged(scored, refusal) & (column("preamble") > 0)
    if copy := options.copy_:
        yield "copy", _is_judged(scored, copy) & (column("copy_similarity") > copy.max_similarity)
    if length := options.length:
        ratio = column("length_ratio")
        yield "length_ratio", _is_judged(scored, length) & ((ratio < length.min_ratio) | (ratio > length.max_ratio))
    if language := options.language:
        differ = (scored["source_language"] != scored["language"]) & (scored["source_language"] != "") & (scored["language"] != "")
        yield "language", _is_judged(scored, language) & differ.to_numpy(bool) & (column("language_confidence") >= language.confidence)
    if question := options.question:
        is_free = scored["style"].isin(question.styles).to_numpy(bool)
        yield "question", _is_judged(scored, question) & ~is_free & (column("source_question") != column("question"))
    if repetition := options.repetition:
        yield "repetition", _is_judged(scored, repetition) & (column("repetition") > repetition.max_share)
    if words := options.new_words:
        yield "new_words", _is_judged(scored, words) & (column("new_words") > words.max_share)
    if facts := options.facts:
        yield "lost_facts", _is_judged(scored, facts) & (column("lost_facts") > facts.max_lost)
        yield "invented_facts", _is_judged(scored, facts) & (column("invented_facts") > facts.max_invented)
    if drift := options.drift:
        yield "drift", _is_judged(scored, drift) & (column("percentile") < drift.percentile)  # False for NaN
