"""Filters: which rewrites may become positive pairs.

Every filter's score is kept with the pair, and a rejected pair names the first filter that rejected it.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from embedding_adaptation.pipelines.data_augmentation.options import FilterOptions

ACCEPTED = "accepted"
REASONS = ("empty", "cut_off", "refusal", "preamble", "copy", "length_ratio", "duplicate")

_REFUSAL = re.compile(
    r"\b(?:as an ai\b|i(?:'m| am) (?:sorry|unable)|i (?:can(?:no|')t|apologi[sz]e|do(?:n't| not) have (?:access|enough))|"
    r"i(?:'d| would) (?:be happy|need) to|how can i (?:help|assist)|please provide)",
    re.IGNORECASE,
)
# What small instruct models say *about* their answer instead of giving it.
_PREAMBLE = re.compile(
    r"^(?:sure\b|certainly\b|of course\b|okay\b[,!]|here(?:'s| is| are)\b|re:|note:)|"
    r"\b(?:re-?writt?en?|rewriting|paraphras\w*|rephras\w*|revised version|original (?:text|message|sentence)|"
    r"simpler words|this (?:message|text|sentence)|the (?:message|text|sentence|phrase) (?:is|was|says|could|can|should))\b",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^(?:message|text|sentence|answer|title|topic|subject|question|phrase)\s*:\s*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]?(?=\s)")
_QUOTES = "\"'“”‘’`"


def tidy_answer(answer: str) -> str:
    """An answer without the wrapping that carries no meaning: a leading label, enclosing quotation marks, runs of white space."""
    text = _LABEL.sub("", " ".join(answer.split()))
    if len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text


def cut_back(answer: str) -> str:
    """An unfinished answer up to the end of its last full sentence; empty if it has none."""
    ends = list(_SENTENCE_END.finditer(answer))
    return answer[: ends[-1].end()].rstrip() if ends else ""


def copy_similarity(source: str, generated: str) -> float:
    """Share of the characters of two texts that lie in common runs, 0 to 1, case and white space aside (Ratcliff-Obershelp)."""
    left, right = (" ".join(text.lower().split()) for text in (source, generated))
    return SequenceMatcher(None, left, right, autojunk=False).ratio()


def length_ratio(source: str, generated: str) -> float:
    """Words of the rewrite for each word of the text."""
    return len(generated.split()) / max(len(source.split()), 1)


def judge_candidates(candidates: pd.DataFrame, options: FilterOptions) -> pd.DataFrame:
    """Score every candidate and decide on it.

    Args:
        candidates: ``source_text``, ``generated_text``, ``finished`` and provenance.
        options: Thresholds.

    Returns:
        The candidates, answers tidied and unfinished ones cut back to their last full sentence, with ``copy_similarity``,
        ``length_ratio``, ``verdict`` (accepted or rejected) and ``reason`` (empty where accepted).
    """
    answers = [
        tidy_answer(answer if ended or not options.require_end else cut_back(answer))
        for answer, ended in zip(candidates["generated_text"], candidates["finished"], strict=True)
    ]
    judged = candidates.assign(generated_text=answers)
    pairs = list(zip(judged["source_text"], judged["generated_text"], strict=True))
    judged["copy_similarity"] = [copy_similarity(*pair) for pair in pairs]
    judged["length_ratio"] = [length_ratio(*pair) for pair in pairs]
    reasons, seen = [], set()
    for row in judged.itertuples():
        reason = _reason(row, options)
        key = str(row.generated_text).lower()
        if not reason and key in seen:
            reason = "duplicate"
        if not reason:
            seen.add(key)
        reasons.append(reason)
    judged["reason"] = reasons
    judged["verdict"] = [ACCEPTED if not reason else "rejected" for reason in reasons]
    return judged


def _reason(row: object, options: FilterOptions) -> str:
    generated = str(row.generated_text)  # type: ignore[attr-defined]
    if not re.search(r"\w", generated):
        return "empty" if row.finished else "cut_off"  # type: ignore[attr-defined]
    if _REFUSAL.search(generated) and not _REFUSAL.search(str(row.source_text)):  # type: ignore[attr-defined]
        return "refusal"
    if _PREAMBLE.search(generated) and not _PREAMBLE.search(str(row.source_text)):  # type: ignore[attr-defined]
        return "preamble"
    if row.copy_similarity > options.max_copy_similarity:  # type: ignore[attr-defined]
        return "copy"
    if not options.min_length_ratio <= row.length_ratio <= options.max_length_ratio:  # type: ignore[attr-defined]
        return "length_ratio"
    return ""
