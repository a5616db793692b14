"""Whether a difference is more than noise: intervals and paired tests from bootstrap resamples and seeds, corrected for multiple testing.

Two things make a score vary: which documents happen to be labelled, and chance in the clustering. The first shows in the spread of a
score over resamples of the documents; two strategies are compared on the *same* resamples, so that shared difficulty cancels. The
second shows in the spread over seeds, and is independent for two strategies. Variances add up; degrees of freedom follow Welch and
Satterthwaite, because a spread over three seeds is a poor estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class SeedScores:
    """One strategy's scores on one task.

    Attributes:
        points: The score with each seed, ``[S]``.
        resampled: The score of each resample with each seed, ``[S, B]``.
    """

    points: np.ndarray
    resampled: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(self.points.mean())

    @property
    def seed_variance(self) -> float:
        """Variance of that mean due to chance in the clustering; 0 if there is only one seed."""
        return float(self.points.var(ddof=1)) / len(self.points) if len(self.points) > 1 else 0.0


@dataclass(frozen=True)
class Estimate:
    """A score or a difference with its uncertainty.

    Attributes:
        value: The estimate.
        low: Lower end of its interval.
        high: Upper end.
        p_value: Two-sided, of the hypothesis that the true value is zero.
    """

    value: float
    low: float
    high: float
    p_value: float


def mean_over_tasks(scores: Sequence[SeedScores]) -> SeedScores:
    """The mean over tasks of one strategy's scores; tasks are resampled independently of one another.

    Args:
        scores: One for each task, with the same number of resamples. Where tasks have different numbers of seeds, the k-th seeds of those
            that have k are averaged around the tasks' means.
    """
    most = max(len(score.points) for score in scores)
    rows = [[index % len(score.points) for index in range(most)] for score in scores]
    rng = np.random.default_rng(0)
    # The resamples of two tasks would be the same wherever they have as many documents.
    orders = [rng.permutation(score.resampled.shape[1]) for score in scores]
    points = np.mean([score.points[row] for score, row in zip(scores, rows, strict=True)], axis=0)  # [S]
    resampled = np.mean([score.resampled[row][:, order] for score, row, order in zip(scores, rows, orders, strict=True)], axis=0)  # [S, B]
    return SeedScores(points, resampled)


def estimate_score(scores: SeedScores, confidence: float) -> Estimate:
    """A score with its interval."""
    spread = scores.resampled.mean(axis=0).var(ddof=1)
    return _estimate(scores.mean, float(spread), [(scores.seed_variance, len(scores.points))], confidence)


def estimate_difference(first: SeedScores, second: SeedScores, confidence: float) -> Estimate:
    """First minus second, on the same resamples of the documents.

    Raises:
        ValueError: If the two were not scored with the same seeds and resamples.
    """
    if first.resampled.shape != second.resampled.shape:
        msg = f"scores of {first.resampled.shape} and {second.resampled.shape} seeds and resamples cannot be paired; score both again"
        raise ValueError(msg)
    spread = (first.resampled - second.resampled).mean(axis=0).var(ddof=1)
    luck = [(score.seed_variance, len(score.points)) for score in (first, second)]
    return _estimate(first.mean - second.mean, float(spread), luck, confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple testing.

    References:
        Holm 1979, https://www.jstor.org/stable/4615733
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(p_values) - rank) * p_values[index])
        corrected[index] = min(1.0, highest)
    return corrected.tolist()


def in_words(difference: Estimate, p_corrected: float, other: str, *, confidence: float, seeds: int) -> str:
    """Say whether a difference is real, for readers who do not use p-values."""
    size = f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
    if p_corrected > 1 - confidence:
        verdict = f"no difference from {other} shown: {size}"
    elif difference.value > 0:
        verdict = f"real gain over {other}: {size}"
    else:
        verdict = f"real loss against {other}: {size}"
    return verdict if seeds > 1 else f"{verdict}; one seed, so random variation of the clustering is not included"


def _estimate(value: float, documents: float, luck: list[tuple[float, int]], confidence: float) -> Estimate:
    """Args: the variance over resamples, and of each strategy the variance of its mean over seeds with their number."""
    variance = documents + sum(part for part, _ in luck)
    if variance <= 0:
        return Estimate(value, value, value, 1.0 if value == 0 else 0.0)
    spread = sum(part**2 / (seeds - 1) for part, seeds in luck if seeds > 1)
    freedom = variance**2 / spread if spread > 0 else np.inf
    error = variance**0.5
    reach = float(t.ppf(0.5 + confidence / 2, freedom)) * error
    return Estimate(value, value - reach, value + reach, float(2 * t.sf(abs(value) / error, freedom)))
