"""What can be wrong with texts that are to be clustered."""

from __future__ import annotations


class ClusteringError(ValueError):
    """Texts that cannot be clustered as the options ask; the message names the option, the value and the way out."""
