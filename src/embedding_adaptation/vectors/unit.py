"""Unit vectors, which are compared by direction alone."""

from __future__ import annotations

import numpy as np

# A shorter vector is zero up to rounding and has no direction.
SHORTEST = 1e-12


def unit_vectors(vectors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Scale vectors to unit length.

    Args:
        vectors: ``[N, D]``.
        out: Array for the result; ``vectors`` itself saves memory.

    Returns:
        ``[N, D]`` float32, or ``out``. A vector shorter than 1e-12 becomes no longer than one, and zero stays zero; one that contains NaN
        or infinity will contain NaN. Use :func:`unit_and_direction` to detect such vectors.
    """
    return unit_and_direction(vectors, out)[0]


def unit_and_direction(vectors: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of :func:`unit_vectors`, and whether each has a direction, bool ``[N]``."""
    vectors = vectors.astype(np.result_type(vectors, np.float32), copy=False)  # squares overflow in float16
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # [N, 1]
    with np.errstate(invalid="ignore"):  # infinity divided by infinity is NaN, as documented
        unit = np.divide(vectors, np.maximum(lengths, SHORTEST), out=out)
    has_direction = np.isfinite(lengths[:, 0]) & (lengths[:, 0] >= SHORTEST)
    return unit if out is not None else unit.astype(np.float32, copy=False), has_direction
