"""A linear map that makes a strategy's vectors agree with a teacher's, in closed form."""

from __future__ import annotations

import numpy as np


def fit_head(vectors: np.ndarray, targets: np.ndarray, *, ridge: float = 1.0, dimensions: int | None = None) -> np.ndarray:
    """The linear map of vectors that comes closest to a teacher's vectors (ridge regression, in closed form).

    Args:
        vectors: Centred vectors ``[N, D]``.
        targets: The teacher's vectors of the same texts ``[N, D']``; they need not be centred.
        ridge: Strength of the penalty on the map's weights, relative to the mean variance of the vectors' dimensions. The higher, the
            less a map can fit what few texts have in common by chance.
        dimensions: Number of dimensions kept, the strongest of the mapped vectors; ``None`` keeps all that hold anything.

    Returns:
        ``[D, K]`` float32. The mapped vectors' principal dimensions come first, so that they can be truncated.

    References:
        Hoerl and Kennard, Ridge regression (Technometrics 12, 1970).
    """
    exact = vectors.astype(np.float64)
    gram = exact.T @ exact  # [D, D]
    penalty = ridge * max(np.trace(gram) / len(gram), 1e-12)
    weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), exact.T @ (targets - targets.mean(axis=0)))  # [D, D']
    # Rotated to the mapped vectors' principal axes, which changes no cosine. Vectors and teacher share at most K dimensions.
    mapped = np.linalg.qr(exact, mode="r") @ weights  # [K, D'], as far from one another as the mapped vectors
    if len(mapped) < mapped.shape[1]:  # the axes lie in the rows: a matrix of K x K instead of D' x D', of which time is the cube
        values, sides = np.linalg.eigh(mapped @ mapped.T)  # ascending
        axes = mapped.T @ (sides / np.sqrt(np.maximum(values, 1e-30)))  # [D', K]
    else:
        values, axes = np.linalg.eigh(mapped.T @ mapped)
    solid = int((values > 1e-10 * max(values[-1], 1e-30)).sum()) or 1
    kept = min(solid, dimensions or solid)
    return np.ascontiguousarray((weights @ axes[:, ::-1][:, :kept]).astype(np.float32))  # [D, K]
