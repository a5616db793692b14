"""Errors of text clustering."""

from __future__ import annotations


class ClusteringError(ValueError):
    """Texts that cannot be clustered according to the options; the message names the option, the value and the remedy."""
