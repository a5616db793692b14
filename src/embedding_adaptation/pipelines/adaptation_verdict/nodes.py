"""Node of the verdict: adapter and answers -> verdict."""

from __future__ import annotations

import logging
from typing import Any

from embedding_adaptation.datasets.adapter import read_adapter_card
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.verdict.judging import verdict_on
from embedding_adaptation.verdict.options import VerdictOptions

logger = logging.getLogger(__name__)


def judge_adaptation(adapter: DecoderWeights, answers: dict[str, Any], options: VerdictOptions) -> dict[str, Any]:
    """Judge whether adaptation helped, from what training measured without labels or, better, from a person's answers.

    Args:
        adapter: The adapted weights, whose card says what was measured.
        answers: A person's answers from ``kedro ask``; empty if nobody was asked.
        options: When it counts as better or worse.

    Returns:
        The verdict with its evidence; see :func:`~embedding_adaptation.verdict.judging.verdict_on`.
    """
    fingerprint = adapter.fingerprint()
    if answers and answers.get("adapter") != fingerprint:
        logger.warning("the answers are about another adapter and do not count; ask again with 'kedro ask'")
    verdict = verdict_on(fingerprint, read_adapter_card(adapter).get("scales", []), answers, options)
    logger.info("%s", verdict["sentence"])
    return verdict
