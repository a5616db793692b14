"""What goes wrong in data augmentation."""

from __future__ import annotations


class AugmentationError(RuntimeError):
    """A corpus or its rewrites that cannot become pairs; the message says why and what to do."""
