"""Choose the number of clusters: one that recurs when other texts are drawn, and would not recur without groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score
from tqdm.auto import tqdm

from embedding_adaptation.vectors.kmeans import labels_from_ward
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from embedding_adaptation.pipelines.text_clustering.options import StabilityOptions

    Clustering = Callable[[np.ndarray], Mapping[int, np.ndarray]]

# These constants were chosen on synthetic mixtures and on mixtures of StackOverflow's tags (docs/explanation/method.md). An agreement is
# clearly above its reference if the difference exceeds this many of its standard errors ...
_ERRORS = 3.0
# ... and this share of the agreement that the reference lacks (the second once groups have been found, which are never quite Gaussian), ...
_LEAST_CORRECTED, _LEAST_ADDED = 0.3, 0.45
# ... or, whatever the error, if nearly all of that is gained: halves of a cloud agree either very well or not at all, so errors are large.
_NEARLY_ALL = 0.9
# Finer groups are sought only if a resample has this many texts per cluster, because a few near-duplicates recur in any data.
_FEWEST_PER_FINER_CLUSTER = 10
# Numbers whose corrected agreement is at least this share of the best count as equally good; the largest of them is the most informative.
_AS_GOOD = 0.95
# Lower bound for the agreement that a reference lacks; below it, a corrected agreement would be mostly rounding error.
_LEAST_OPEN = 0.05
_MOST_STEPS = 4
# If two groups are so far apart that their gap dominates the covariance, vectors with that covariance but without groups are halved just as
# stably, and agreement cannot tell the two apart. Measured gaps in log dispersion: up to 0.01 for Gaussians, 0.15 to 0.6 for two groups.
_AGREES_ANYWAY = 0.95
_LEAST_GAP = 0.05
_NO_VARIANCE = 1e-12


@dataclass(frozen=True)
class Choice:
    """A chosen number of clusters.

    Attributes:
        clusters: The number.
        steps: Coarser numbers found on the way and the number itself; empty if there is no structure and the number is arbitrary.
    """

    clusters: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Components:
    """Principal components, in which distances are nearly those between vectors at a fraction of the cost.

    Attributes:
        mean: Mean of the vectors, ``[D]``.
        directions: Orthonormal columns, the strongest first, ``[D, d]``.
    """

    mean: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, limit: int) -> Components:
        """The strongest components of vectors ``[n, D]``, at most ``limit``."""
        mean = matrix.mean(axis=0, dtype=np.float64)
        centred = matrix - mean
        values, directions = np.linalg.eigh(centred.T @ centred / len(matrix))  # ascending
        kept = max(1, min(limit, int((values > _NO_VARIANCE).sum())))
        return cls(mean, directions[:, ::-1][:, :kept])

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        """Coordinates ``[n, d]`` of vectors ``[n, D]``, float32."""
        return np.asarray((matrix - self.mean) @ self.directions, np.float32)


@dataclass(frozen=True)
class GroupsOnly:
    """A model of vectors with the given groups but no structure within them: each group is a Gaussian, projected onto the sphere.

    All groups have the shape of the pooled covariance, each at its own scale. A single group is the reference without any structure.

    Attributes:
        means: Mean of each vector's group, ``[n, D]``.
        residuals: The vectors minus these means, all at the same scale, ``[n, D]``.
        scales: Scale of each vector's group, ``[n, 1]``.
    """

    means: np.ndarray
    residuals: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, groups: np.ndarray) -> GroupsOnly:
        """Fit the model to unit vectors ``[n, D]`` in groups ``[n]``, numbered from 0 without gaps."""
        sizes = np.bincount(groups)
        means = np.stack([matrix[groups == group].mean(axis=0) for group in range(len(sizes))])[groups]
        residuals = matrix - means
        spread = np.bincount(groups, (residuals**2).sum(axis=1)) / sizes  # [groups]
        typical = max(float(spread @ sizes / len(groups)), _NO_VARIANCE)
        scales = np.sqrt(np.maximum(spread / typical, _NO_VARIANCE))[groups][:, None]
        return cls(means, (residuals / scales).astype(np.float32), scales.astype(np.float32))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw as many unit vectors ``[n, D]`` as the model was fitted to."""
        count = len(self.residuals)
        # Random sums of the residuals are Gaussian with exactly their covariance, which need not be decomposed.
        weights = rng.standard_normal((count, count), np.float32) / np.sqrt(count)  # [n, n]
        return unit_vectors(self.means + self.scales * (weights @ self.residuals))


def resample_agreement(points: np.ndarray, clustering: Clustering, share: float, rng: np.random.Generator) -> dict[int, float]:
    """Agreement of clusterings of two resamples without replacement, on the points common to both, by number of clusters.

    Agreement is the adjusted Rand index, which is 0 on average for chance agreement, whatever the number of clusters.

    References:
        Ben-Hur, Elisseeff and Guyon, A stability based method for discovering structure in clustered data (PSB 2002); von Luxburg,
        Clustering stability: an overview (arXiv 1007.1075).
    """
    size = max(2, round(share * len(points)))
    draws = [np.sort(rng.choice(len(points), size, replace=False)) for _ in range(2)]
    _, *common = np.intersect1d(draws[0], draws[1], assume_unique=True, return_indices=True)
    first, second = (clustering(points[drawn]) for drawn in draws)
    return {number: float(adjusted_rand_score(first[number][common[0]], second[number][common[1]])) for number in first}


def agreement_curve(draws: Iterable[np.ndarray], clustering: Clustering, share: float, seed: Sequence[int]) -> pd.DataFrame:
    """Mean agreement of resamples by number of clusters.

    Args:
        draws: The points to resample, ``[n, D]``, one entry per pair: always the same points, or different draws from a reference.
        clustering: Maps points to their labels by number of clusters.
        share: Share of the points in a resample.
        seed: Seed of the resamples.

    Returns:
        ``agreement``, ``standard_error`` over pairs, and ``pairs``, indexed by the number of clusters.
    """
    agreements = pd.DataFrame(
        [resample_agreement(points, clustering, share, np.random.default_rng([*seed, pair])) for pair, points in enumerate(draws)]
    )
    pairs = len(agreements)
    return pd.DataFrame({"agreement": agreements.mean(), "standard_error": agreements.std(ddof=1) / np.sqrt(pairs), "pairs": pairs})


def log_dispersion(points: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Logarithm of the sum of squared distances of points ``[n, D]`` to their centres, for each number of clusters, ``[numbers]``."""
    sums = []
    for labels in labels_from_ward(points, numbers).values():
        inside = [points[labels == label] - points[labels == label].mean(axis=0, dtype=np.float64) for label in np.unique(labels)]
        sums.append(sum(float((residuals**2).sum()) for residuals in inside))
    return np.log(np.maximum(sums, _NO_VARIANCE))  # [numbers]


def choose_number(matrix: np.ndarray, numbers: Sequence[int], options: StabilityOptions, seed: int) -> tuple[Choice, pd.DataFrame]:
    """Choose the number of clusters by corrected stability.

    In any data, few clusters agree more easily than many: two halves of a long cloud recur again and again although there are no groups.
    So the agreement at each number is compared with that of the same procedure on vectors with the same mean and covariance but without
    groups (a reference distribution, as in the gap statistic). The corrected agreement is the share gained of what the reference lacks: 0
    as without groups, 1 if resamples agree fully. If the vectors without groups themselves agree nearly fully, and no number stands out,
    the gap statistic decides: how much tighter the clusters are than those of the reference. Among the numbers clearly above the
    reference, the largest that is as good as the best is chosen. It may be a coarse division of finer groups, so all larger numbers are
    tested again, against a reference that has the groups found so far and no structure within them, until no number adds anything.

    Args:
        matrix: Unit vectors ``[n, D]``.
        numbers: Candidates.
        options: Pairs of resamples, their share, principal components.
        seed: Seed of all draws.

    Returns:
        The choice, and one row per candidate: ``clusters``, ``agreement``, ``standard_error``, ``pairs``; ``reference`` (agreement without
        groups), ``reference_error``, ``corrected``; for numbers above the first one found, ``explained`` (agreement with only the coarser
        groups of the last step), ``explained_error`` and ``added`` (corrected by it); and ``gap`` in log dispersion where it was needed.

    References:
        Tibshirani, Walther and Hastie, Estimating the number of clusters in a data set via the gap statistic (JRSS B 63, 2001).
    """
    components = Components.of(matrix, options.dimensions)
    points = components(matrix)

    def measure(draws: Iterable[np.ndarray], candidates: list[int], title: str, key: int) -> pd.DataFrame:
        bar = tqdm(draws, total=options.pairs, unit="pair", desc=f"stability, {title}")
        return agreement_curve(bar, lambda rows: labels_from_ward(rows, candidates), options.share, [seed, key])

    candidates = sorted(numbers)
    curve = measure([points] * options.pairs, candidates, "texts", 0)
    for name in ("reference", "reference_error", "corrected", "explained", "explained_error", "added", "gap"):
        curve[name] = np.nan
    steps: list[int] = []
    while candidates and len(steps) < _MOST_STEPS:
        last = steps[-1] if steps else 1
        model = GroupsOnly.of(matrix, labels_from_ward(points, [last])[last])

        def draws(model: GroupsOnly = model, last: int = last) -> Iterable[np.ndarray]:
            rng = np.random.default_rng([seed, last])
            return (components(model.draw(rng)) for _ in range(options.pairs))

        reference = measure(draws(), candidates, f"reference with {last}", last)
        expected, observed = reference["agreement"].to_numpy(), curve.loc[candidates, "agreement"].to_numpy()  # [candidates] both
        gain = observed - expected
        corrected = gain / np.maximum(1 - expected, _LEAST_OPEN)
        names = ["explained", "explained_error", "added"] if steps else ["reference", "reference_error", "corrected"]
        curve.loc[candidates, names] = np.column_stack([expected, reference["standard_error"], corrected])
        error = np.hypot(curve.loc[candidates, "standard_error"].to_numpy(), reference["standard_error"].to_numpy())
        enough = corrected >= (_LEAST_ADDED if steps else _LEAST_CORRECTED)
        clear = (enough & (gain > _ERRORS * error)) | (corrected >= _NEARLY_ALL)
        merit = corrected
        if not clear.any():
            undecided = (expected >= _AGREES_ANYWAY) & (observed >= _AGREES_ANYWAY)
            if not undecided.any():
                break
            remaining = np.array(candidates)[undecided].tolist()
            merit = np.full(len(candidates), -np.inf)
            merit[undecided] = np.mean([log_dispersion(drawn, remaining) for drawn in draws()], axis=0) - log_dispersion(points, remaining)
            curve.loc[remaining, "gap"] = merit[undecided]
            clear = merit >= _LEAST_GAP
            if not clear.any():
                break
        good = clear & (merit >= _AS_GOOD * merit[clear].max())
        steps.append(int(np.array(candidates)[good].max()))
        candidates = [k for k in candidates if k > steps[-1] and k * _FEWEST_PER_FINER_CLUSTER <= options.share * len(matrix)]
    curve = curve.rename_axis("clusters").reset_index()
    number = steps[-1] if steps else int(curve["clusters"].iloc[int(curve["corrected"].to_numpy().argmax())])
    return Choice(number, tuple(steps)), curve
