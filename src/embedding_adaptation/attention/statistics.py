"""Paired differences and correlations, with intervals from resampling."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def paired_bootstrap(
    differences: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the mean of paired differences with a percentile bootstrap interval over texts.

    All columns use the same draws of texts. The interval shows how much the mean depends on which texts were drawn; it says nothing about
    other models or training seeds.

    Args:
        differences: ``[N, K]``, one row per text; NaN where a text has no value.
        resamples: Number of draws of N texts with replacement.
        confidence: Confidence level of the interval.
        seed: Seed of the draws.

    Returns:
        Mean, lower and upper end, each ``[K]``; NaN where no text has a value.

    References:
        Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    count = len(differences)
    present = ~np.isnan(differences)  # [N, K]
    values = np.where(present, differences, 0.0)  # [N, K]
    random = np.random.default_rng(seed)
    draws = random.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)  # [R, N]
    counts = np.float64(count) if present.all() else draws @ present  # [R, K], values in each draw
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (draws @ values) / counts  # [R, K]
        mean = values.sum(axis=0) / present.sum(axis=0)  # [K]
    tail = (1 - confidence) / 2
    known = present.any(axis=0)  # [K]
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)  # [K]
    low[known], high[known] = np.nanquantile(means[:, known], [tail, 1 - tail], axis=0)
    return mean, low, high


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rank correlation over complete pairs; NaN for fewer than three pairs or a constant side."""
    both = ~(np.isnan(left) | np.isnan(right))
    if both.sum() < 3:  # noqa: PLR2004  two points always lie on a line
        return float("nan")
    ranks = [rankdata(side[both]) for side in (left, right)]
    if any(np.ptp(side) == 0 for side in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def bootstrapped_rank_correlation(
    left: np.ndarray, right: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Compute Spearman's rank correlation of paired values with a percentile bootstrap interval over the pairs.

    With fewer than ten pairs the interval is rough, and neighbouring checkpoints of a run are not independent pairs: it is only a hint.

    Args:
        left: ``[N]``.
        right: ``[N]``.
        resamples: Number of draws of N pairs with replacement; draws without a correlation are ignored.
        confidence: Confidence level of the interval.
        seed: Seed of the draws.

    Returns:
        Correlation, lower and upper end; NaN if undefined.
    """
    correlation = rank_correlation(left, right)
    if np.isnan(correlation):
        return correlation, correlation, correlation
    random = np.random.default_rng(seed)
    draws = random.integers(len(left), size=(resamples, len(left)))  # [R, N]
    drawn = np.array([rank_correlation(left[pairs], right[pairs]) for pairs in draws])  # [R]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return correlation, float(low), float(high)
