"""Scored cells, found by the plan that names them; unlike the grid that fills them, without mteb, which takes seconds to import."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 2  # incremented when scores of the same vectors are computed differently
RESAMPLED = "resampled."


def gather(planned: pd.DataFrame, cells: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The planned cells with their scores.

    Raises:
        EvaluationError: If one is missing, or the plan was written by an earlier version.
    """
    if "vectors" not in planned:
        msg = f"the evaluation_plan is not in format {FORMAT}, the only one this version reads; run clustering_evaluation again"
        raise EvaluationError(msg)
    rows = []
    for row in planned.to_dict("records"):
        if row["cell"] not in cells:
            msg = f"{row['task']}, strategy {row['strategy']!r}, seed {row['seed']} has not been scored; run clustering_evaluation again"
            raise EvaluationError(msg)
        scores = cells[row["cell"]].iloc[0].to_dict()
        rows.append({**row, **scores, "metrics": json.loads(scores["metrics"]), "by_part": json.loads(scores["by_part"])})
    return pd.DataFrame(rows)
