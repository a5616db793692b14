"""The error of clustering evaluation."""

from __future__ import annotations


class EvaluationError(ValueError):
    """Tasks, vectors or labels cannot be scored; the message says why and what to do."""
