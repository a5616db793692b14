"""How many clusters there are: as many as come out again when other texts are drawn, and would not come out without groups."""

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

# Chosen on synthetic mixtures and on mixtures of StackOverflow's tags (docs/method.md). An agreement is above its reference from so many
# standard errors of their difference on ...
_ERRORS = 3.0
# ... and from this share of what the reference leaves open on; the second where groups have been found, which are never quite Gaussian, ...
_LEAST_CORRECTED, _LEAST_ADDED = 0.3, 0.45
# ... or, whatever the error, where nearly all is gained: two halves of a cloud agree so well, or not at all, that the error is large.
_NEARLY_ALL = 0.9
# Finer groups are looked for where a resample has so many texts a cluster: a few near-duplicates come out again anywhere.
_FEWEST_A_FINER_CLUSTER = 10
# Numbers whose corrected agreement is at least this share of the best are as good as it; of these the largest says most.
_AS_GOOD = 0.95
# What a reference leaves open is at least this much: below, a corrected agreement would be rounding errors.
_LEAST_OPEN = 0.05
_MOST_STEPS = 4
# Two groups so far apart that their gap decides the covariance: vectors without groups but of that covariance are halved as stably, and
# agreement cannot tell the two. Measured gaps in log dispersion: up to 0.01 for Gaussians, 0.15 to 0.6 for two groups.
_AGREES_ANYWAY = 0.95
_LEAST_GAP = 0.05
_NO_VARIANCE = 1e-12


@dataclass(frozen=True)
class Choice:
    """A number of clusters.

    Attributes:
        clusters: The number.
        steps: Coarser numbers found on the way and the number itself; empty where there is no structure and the number is arbitrary.
    """

    clusters: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Components:
    """Principal components, in which distances are nearly those of the vectors and cost a fraction.

    Attributes:
        mean: Of the vectors, ``[D]``.
        directions: Orthonormal columns, the strongest first, ``[D, d]``.
    """

    mean: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, most: int) -> Components:
        """The strongest components of vectors ``[n, D]``, at most so many."""
        mean = matrix.mean(axis=0, dtype=np.float64)
        centred = matrix - mean
        values, directions = np.linalg.eigh(centred.T @ centred / len(matrix))  # ascending
        kept = max(1, min(most, int((values > _NO_VARIANCE).sum())))
        return cls(mean, directions[:, ::-1][:, :kept])

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        """Coordinates ``[n, d]`` of vectors ``[n, D]``, float32."""
        return np.asarray((matrix - self.mean) @ self.directions, np.float32)


@dataclass(frozen=True)
class GroupsOnly:
    """Vectors that have the given groups, and nothing within: a Gaussian each, on the sphere like the vectors.

    All groups have the shape of the pooled covariance, each at its own scale. One group is the reference without any structure.

    Attributes:
        means: Mean of each vector's group, ``[n, D]``.
        residuals: The vectors less these, at the same scale, ``[n, D]``.
        scales: Of each vector's group, ``[n, 1]``.
    """

    means: np.ndarray
    residuals: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, groups: np.ndarray) -> GroupsOnly:
        """The model of unit vectors ``[n, D]`` in groups ``[n]``, numbered from 0 on without gaps."""
        sizes = np.bincount(groups)
        means = np.stack([matrix[groups == group].mean(axis=0) for group in range(len(sizes))])[groups]
        residuals = matrix - means
        spread = np.bincount(groups, (residuals**2).sum(axis=1)) / sizes  # [groups]
        typical = max(float(spread @ sizes / len(groups)), _NO_VARIANCE)
        scales = np.sqrt(np.maximum(spread / typical, _NO_VARIANCE))[groups][:, None]
        return cls(means, (residuals / scales).astype(np.float32), scales.astype(np.float32))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """As many unit vectors ``[n, D]``, a new draw at every call."""
        count = len(self.residuals)
        # Random sums of all residuals are Gaussian with exactly their covariance, and need no decomposition of it.
        weights = rng.standard_normal((count, count), np.float32) / np.sqrt(count)  # [n, n]
        return unit_vectors(self.means + self.scales * (weights @ self.residuals))


def resample_agreement(points: np.ndarray, clustering: Clustering, share: float, rng: np.random.Generator) -> dict[int, float]:
    """Agreement of clusterings of two resamples without replacement, on the points that both hold, by number of clusters.

    It is the adjusted Rand index, which is 0 on average where two clusterings agree by chance only, whatever the number of clusters.

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
        draws: What is resampled, ``[n, D]``, once a pair: the same points each time, or other draws of a reference.
        clustering: Takes rows and gives their labels by number of clusters.
        share: Share of the points in a resample.
        seed: Seed of the resamples.

    Returns:
        ``agreement``, ``standard_error`` over pairs and ``pairs``; the index is the number of clusters.
    """
    found = pd.DataFrame(
        [resample_agreement(points, clustering, share, np.random.default_rng([*seed, pair])) for pair, points in enumerate(draws)]
    )
    pairs = len(found)
    return pd.DataFrame({"agreement": found.mean(), "standard_error": found.std(ddof=1) / np.sqrt(pairs), "pairs": pairs})


def log_dispersion(points: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Logarithm of the sum of squared distances to the centres, ``[numbers]``, of points ``[n, D]`` in so many clusters."""
    sums = []
    for labels in labels_from_ward(points, numbers).values():
        inside = [points[labels == label] - points[labels == label].mean(axis=0, dtype=np.float64) for label in np.unique(labels)]
        sums.append(sum(float((residuals**2).sum()) for residuals in inside))
    return np.log(np.maximum(sums, _NO_VARIANCE))  # [numbers]


def choose_number(matrix: np.ndarray, numbers: Sequence[int], options: StabilityOptions, seed: int) -> tuple[Choice, pd.DataFrame]:
    """Choose the number of clusters by corrected stability.

    Few clusters agree more easily than many, in any data: two halves of a long cloud come out again and again though there are no groups.
    So each number's agreement is compared with what the same procedure reaches on vectors of the same mean and covariance without groups (a
    reference distribution, as of the gap statistic). Corrected is the share of what the reference leaves open: 0 as without groups, 1 where
    resamples agree fully. Where the vectors without groups agree nearly fully themselves, and no number is clear, the gap statistic
    decides: by how much clusters are tighter than theirs. Of the numbers clearly above the reference the largest is taken that is as good
    as the best. This may be a coarse division of finer groups; so the question is put again to all larger numbers, with a reference that
    has the groups found and nothing in them, until no number adds anything.

    Args:
        matrix: Unit vectors ``[n, D]``.
        numbers: Candidates.
        options: Pairs of resamples, their share, principal components.
        seed: Seed of all draws.

    Returns:
        The choice; and a row a candidate: ``clusters``, ``agreement``, ``standard_error``, ``pairs``; ``reference`` (agreement without
        groups), ``reference_error``, ``corrected``; and for numbers above the first one found ``explained`` (agreement with nothing but
        the coarser groups of the last question), ``explained_error`` and ``added`` (corrected by it); and ``gap`` in log dispersion where
        that was asked for.

    References:
        Tibshirani, Walther and Hastie, Estimating the number of clusters in a data set via the gap statistic (JRSS B 63, 2001).
    """
    components = Components.of(matrix, options.dimensions)
    points = components(matrix)

    def measured(draws: Iterable[np.ndarray], asked: list[int], what: str, key: int) -> pd.DataFrame:
        bar = tqdm(draws, total=options.pairs, unit="pair", desc=f"stability, {what}")
        return agreement_curve(bar, lambda rows: labels_from_ward(rows, asked), options.share, [seed, key])

    asked = sorted(numbers)
    curve = measured([points] * options.pairs, asked, "texts", 0)
    for name in ("reference", "reference_error", "corrected", "explained", "explained_error", "added", "gap"):
        curve[name] = np.nan
    steps: list[int] = []
    while asked and len(steps) < _MOST_STEPS:
        last = steps[-1] if steps else 1
        model = GroupsOnly.of(matrix, labels_from_ward(points, [last])[last])

        def draws(model: GroupsOnly = model, last: int = last) -> Iterable[np.ndarray]:
            rng = np.random.default_rng([seed, last])
            return (components(model.draw(rng)) for _ in range(options.pairs))

        reference = measured(draws(), asked, f"reference of {last}", last)
        expected, observed = reference["agreement"].to_numpy(), curve.loc[asked, "agreement"].to_numpy()  # [asked] both
        gain = observed - expected
        corrected = gain / np.maximum(1 - expected, _LEAST_OPEN)
        names = ["explained", "explained_error", "added"] if steps else ["reference", "reference_error", "corrected"]
        curve.loc[asked, names] = np.column_stack([expected, reference["standard_error"], corrected])
        error = np.hypot(curve.loc[asked, "standard_error"].to_numpy(), reference["standard_error"].to_numpy())
        enough = corrected >= (_LEAST_ADDED if steps else _LEAST_CORRECTED)
        clear = (enough & (gain > _ERRORS * error)) | (corrected >= _NEARLY_ALL)
        merit = corrected
        if not clear.any():
            undecided = (expected >= _AGREES_ANYWAY) & (observed >= _AGREES_ANYWAY)
            if not undecided.any():
                break
            numbers_left = np.array(asked)[undecided].tolist()
            merit = np.full(len(asked), -np.inf)
            merit[undecided] = np.mean([log_dispersion(drawn, numbers_left) for drawn in draws()], axis=0) - log_dispersion(
                points, numbers_left
            )
            curve.loc[numbers_left, "gap"] = merit[undecided]
            clear = merit >= _LEAST_GAP
            if not clear.any():
                break
        good = clear & (merit >= _AS_GOOD * merit[clear].max())
        steps.append(int(np.array(asked)[good].max()))
        asked = [k for k in asked if k > steps[-1] and k * _FEWEST_A_FINER_CLUSTER <= options.share * len(matrix)]
    curve = curve.rename_axis("clusters").reset_index()
    taken = steps[-1] if steps else int(curve["clusters"].iloc[int(curve["corrected"].to_numpy().argmax())])
    return Choice(taken, tuple(steps)), curve
