"""Nodes of the plan: corpus -> runs on samples -> what the whole run takes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.pipelines.plan.options import PlanOptions
from embedding_adaptation.texts.stream import TextStream


def measure_samples(corpus: TextStream, base_model: DecoderWeights, parameters: dict[str, Any], options: PlanOptions) -> dict[str, Any]:
    """Run ``adapt`` on samples of the corpus, shortened, and note what it took.

    Args:
        corpus: The texts.
        base_model: The base model.
        parameters: All groups of options.
        options: How large the samples are.

    Returns:
        Facts about the corpus, about this machine, and about each run.

    Raises:
        PlanError: If there are too few texts, or a run fails.
    """
    from embedding_adaptation.pipelines.plan.measuring import measured

    return measured(corpus, base_model, parameters, options)


def plan_run(sample_runs: dict[str, Any], parameters: dict[str, Any], options: PlanOptions) -> tuple[dict[str, Any], pd.DataFrame]:
    """Tell from runs on samples what ``adapt`` takes for all texts.

    Args:
        sample_runs: What :func:`measure_samples` found.
        parameters: All groups of options.
        options: For how many texts and workers, and at what price.

    Returns:
        The plan with its arithmetic, and a table with a row for each pipeline and one for all of them.
    """
    from embedding_adaptation.pipelines.plan.estimate import estimated

    return estimated(sample_runs, parameters, options)
