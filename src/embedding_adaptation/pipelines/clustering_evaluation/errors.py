"""The error of clustering evaluation."""

from __future__ import annotations


class EvaluationError(ValueError):
    """Tasks, vectors or labels that allow no score; the message says why and what to do."""
