"""The verdict on an adaptation, without labels: better, no difference, worse, or cannot tell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedding_adaptation.verdict.options import QuestionsOptions, VerdictOptions

Verdict = Literal["better", "no_difference", "worse", "cannot_tell"]
Side = Literal["base", "adapted"]
ANSWERS: tuple[str, ...] = ("base", "adapted", "neither")
# In words, for the terminal and for the page that asks.
SAID: dict[Verdict, str] = {
    "better": "the adapted model is better than the base model",
    "no_difference": "adaptation makes no difference",
    "worse": "the adapted model is worse than the base model",
    "cannot_tell": "it cannot be told whether adaptation helps",
}
COUNTED = "answers: {adapted} for the adapted model, {base} for the base model, {neither} for neither"
UNDECIDED = "which does not decide"


def verdict_by_agreement(scales: Sequence[Mapping[str, float]], options: VerdictOptions) -> Verdict:
    """The verdict from what was measured when the adapter was scaled.

    Args:
        scales: ``scale``, ``agreement``, ``change``, ``texts`` and ``chosen``; see
            :func:`~embedding_adaptation.pipelines.contrastive_finetuning.interpolation.keep_best_scale`.
        options: What counts as a difference.

    Returns:
        ``worse`` if none of the adapter was kept because all of it agrees less than the base model.
    """
    base = next((row for row in scales if row["scale"] == 0), None)
    kept = next((row for row in scales if row["chosen"]), None)
    if base is None or kept is None or _texts(kept) < options.min_texts:
        return "cannot_tell"
    if kept["scale"] == 0:
        whole = max(scales, key=lambda row: row["scale"])
        return "worse" if whole["agreement"] < base["agreement"] - options.margin else "no_difference"
    gain = kept["agreement"] - base["agreement"]
    if abs(gain) > options.margin:
        return "better" if gain > 0 else "worse"
    return "no_difference" if kept["change"] <= options.unchanged else "cannot_tell"


def _texts(measured: Mapping[str, float]) -> float:
    """On how many texts it was measured; adapters of earlier versions do not say, and were measured on 200 where there were as many."""
    return measured.get("texts", math.inf)


def sequential_decision(answers: Sequence[str], options: QuestionsOptions) -> Side | None:
    """Wald's sequential probability ratio test on answers, in their order.

    The hypotheses are that a share ``options.share`` of the answers is for the adapted model, or for the base model. The decision falls as
    soon as the answers before it are that much more likely under one; later ones change nothing.

    Args:
        answers: ``base``, ``adapted`` or ``neither``, which tells nothing.
        options: The share, and the highest probability of a wrong decision.

    Returns:
        The better side; ``None`` if the answers do not decide.

    References:
        Wald, Sequential tests of statistical hypotheses (Annals of Mathematical Statistics 16, 1945).
    """
    weight, bound = weight_and_bound(options)
    evidence = 0.0
    for answer in answers:
        evidence += weight * ((answer == "adapted") - (answer == "base"))
        if abs(evidence) >= bound:
            return "adapted" if evidence > 0 else "base"
    return None


def weight_and_bound(options: QuestionsOptions) -> tuple[float, float]:
    """How much evidence an answer for either side is, and from how much on it is decided, both as logarithms of likelihood ratios."""
    return math.log(options.share / (1 - options.share)), math.log((1 - options.error) / options.error)


def verdict_on(adapter: str, scales: Sequence[Mapping[str, float]], answers: Mapping[str, Any], options: VerdictOptions) -> dict[str, Any]:
    """The verdict with its evidence, for JSON.

    Args:
        adapter: Fingerprint of the adapted weights.
        scales: As for :func:`verdict_by_agreement`.
        answers: ``adapter`` and ``answers`` of a person; empty if nobody was asked. Answers about another adapter, or too few or too
            contradictory ones to decide, do not count.
        options: When it counts as better or worse.
    """
    given = list(answers.get("answers", ())) if answers.get("adapter") == adapter else []
    verdict: Verdict = verdict_by_agreement(scales, options)
    side = sequential_decision(given, options.questions)
    if side is not None:
        verdict = "better" if side == "adapted" else "worse"
    kept = next((dict(row) for row in scales if row["chosen"]), None)
    too_few = int(_texts(kept)) if kept and _texts(kept) < options.min_texts else None
    judged: dict[str, Any] = {
        "verdict": verdict,
        "ship": "adapted" if verdict == "better" else "base",
        "decided_by": "answers" if side is not None else "agreement" if kept and too_few is None else "nothing",
        "adapter": adapter,
        "kept": kept["scale"] if kept else 1.0,
        "too_few_texts": too_few,
        "scales": [dict(row) for row in scales],
        "answers": {name: given.count(name) for name in ANSWERS} if given else None,
    }
    return judged | {"sentence": verdict_sentence(judged)}


def verdict_sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    said = SAID[verdict["verdict"]]
    reason = "nothing was measured"
    answers = ""
    if counts := verdict["answers"]:
        answers = COUNTED.format_map(counts)
    if verdict["decided_by"] == "answers":
        reason = answers
    elif verdict["too_few_texts"] is not None:
        reason = f"{verdict['too_few_texts']} texts are too few to measure it; 'kedro ask' asks you"
    elif verdict["decided_by"] == "agreement":
        base = next(row for row in verdict["scales"] if row["scale"] == 0)
        kept = next(row for row in verdict["scales"] if row["chosen"])
        of = "all" if kept["scale"] == 1 else "nothing" if kept["scale"] == 0 else f"{kept['scale']:g}"
        reason = (
            f"agreement of groups with the texts' characters {base['agreement']:.3f} before and {kept['agreement']:.3f} after, "
            f"{kept['change']:.0%} of nearest neighbours changed, {of} of the adapter is kept"
        )
    if answers and reason != answers:
        reason = f"{reason}; {answers}, {UNDECIDED}"
    return f"Without labels: {said} ({reason})."
