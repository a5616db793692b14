"""Errors of data augmentation."""

from __future__ import annotations


class AugmentationError(RuntimeError):
    """A corpus or rewrites from which no pairs can be made; the message says why and what to do."""
