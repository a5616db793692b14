"""Vectors of length one: what is compared by direction alone."""

from __future__ import annotations

import numpy as np

# A shorter vector is what rounding leaves of zero: it has no direction.
SHORTEST = 1e-12


def unit_vectors(vectors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The same directions with length one.

    Args:
        vectors: ``[N, D]`` of any scale.
        out: Where the result goes; ``vectors`` itself saves memory.

    Returns:
        ``[N, D]`` float32, or ``out``. A vector shorter than 1e-12 comes out no longer than one, and zero stays zero; one that holds NaN or
        infinity holds NaN. Who cannot use such vectors refuses them (see :func:`unit_and_direction`).
    """
    return unit_and_direction(vectors, out)[0]


def unit_and_direction(vectors: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of :func:`unit_vectors`, and whether each has a direction, bool ``[N]``."""
    vectors = vectors.astype(np.result_type(vectors, np.float32), copy=False)  # float16 has no room for squares
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # [N, 1]
    with np.errstate(invalid="ignore"):  # of infinity divided by infinity comes NaN, as promised
        unit = np.divide(vectors, np.maximum(lengths, SHORTEST), out=out)
    has_direction = np.isfinite(lengths[:, 0]) & (lengths[:, 0] >= SHORTEST)
    return unit if out is not None else unit.astype(np.float32, copy=False), has_direction
