"""Paired differences and correlations, with intervals from resampling."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def paired_bootstrap(
    differences: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of paired differences with a percentile bootstrap interval over texts.

    All columns see the same draws of texts. The interval says how far the mean depends on which texts were drawn; it says nothing of
    another model or another seed of training.

    Args:
        differences: ``[N, K]``, a row a text; NaN where a text has no value.
        resamples: Draws of N texts with replacement.
        confidence: Share of the draws inside the interval.
        seed: Seed of the draws.

    Returns:
        Mean, lower and upper end, each ``[K]``; NaN where no text has a value.

    References:
        Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    count = len(differences)
    there = ~np.isnan(differences)  # [N, K]
    values = np.where(there, differences, 0.0)  # [N, K]
    random = np.random.default_rng(seed)
    draws = random.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)  # [R, N]
    counts = np.float64(count) if there.all() else draws @ there  # [R, K], values in each draw
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (draws @ values) / counts  # [R, K]
        mean = values.sum(axis=0) / there.sum(axis=0)  # [K]
    tail = (1 - confidence) / 2
    known = there.any(axis=0)  # [K]
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)  # [K]
    low[known], high[known] = np.nanquantile(means[:, known], [tail, 1 - tail], axis=0)
    return mean, low, high


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rank correlation over the pairs that have both values; NaN for fewer than three pairs or a constant side."""
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
    """Spearman's rank correlation of paired values with a percentile bootstrap interval over the pairs.

    With fewer than ten pairs the interval is rough, and neighbouring checkpoints of one run are no independent pairs: read it as a hint.

    Args:
        left: ``[N]``.
        right: ``[N]``.
        resamples: Draws of N pairs with replacement; draws whose pairs are all alike are left out.
        confidence: Share of the draws inside the interval.
        seed: Seed of the draws.

    Returns:
        Correlation, lower and upper end; NaN where there is none.
    """
    found = rank_correlation(left, right)
    if np.isnan(found):
        return found, found, found
    random = np.random.default_rng(seed)
    draws = random.integers(len(left), size=(resamples, len(left)))  # [R, N]
    drawn = np.array([rank_correlation(left[chosen], right[chosen]) for chosen in draws])  # [R]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return found, float(low), float(high)
