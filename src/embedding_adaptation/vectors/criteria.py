"""Criteria for comparing embeddings without labels; for all of them, higher is better.

Vectors are ``[N, D]`` and compared by direction: every criterion scales them to unit length first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, silhouette_score

from embedding_adaptation.vectors.neighbours import largest
from embedding_adaptation.vectors.threads import one_thread
from embedding_adaptation.vectors.unit import unit_vectors

_NEIGHBOURS = 10
_TEMPERATURE = 0.05
_RESAMPLES = 2
_RESAMPLE_SHARE = 0.7
_BATCH = 512
_ONE_POINT = 1e-6  # scatter of unit vectors below which float32 similarities are rounding errors

CRITERIA: dict[str, str] = {
    "effective_rank": "how many directions are in use (RankMe)",
    "uniformity": "how evenly vectors spread over the sphere",
    "alignment": "how close the two halves of a text are",
    "pair_accuracy": "how often a half's own other half is the closest",
    "pair_contrast": "how clearly it is (InfoNCE)",
    "silhouette": "how well k-means clusters are set apart",
    "cluster_stability": "how alike clusterings of two resamples are",
    "neighbour_contrast": "how much closer neighbours are than random pairs",
    "hubness": "how rarely a few texts are everybody's neighbours",
    "neighbour_consensus": "how far neighbours are those of the other strategies",
    "partition_consensus": "how far clusters are those of the other strategies",
}


class CriteriaError(ValueError):
    """Vectors, texts or options that do not allow a criterion to be computed; the message says what to change."""


def checked_unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to unit length (see :func:`~embedding_adaptation.vectors.unit.unit_vectors`).

    Raises:
        CriteriaError: If there are fewer than three, or a value is not finite.
    """
    if len(vectors) < 3:  # noqa: PLR2004  neighbours and clusters need company
        msg = f"criteria need at least 3 vectors, but got {len(vectors)}; give more texts"
        raise CriteriaError(msg)
    if not np.isfinite(vectors).all():
        wrong = int((~np.isfinite(vectors)).any(axis=1).sum())
        msg = (
            f"{wrong} of {len(vectors)} vectors contain NaN or infinite values; embed these texts again (embedder.dtype=float32), "
            "or leave them out"
        )
        raise CriteriaError(msg)
    return unit_vectors(vectors)


def effective_rank(vectors: np.ndarray) -> float:
    """RankMe: the exponential of the entropy of the singular values, between 1 and D.

    References:
        https://arxiv.org/abs/2210.02885
    """
    strengths = np.linalg.svd(checked_unit_vectors(vectors).astype(np.float64), compute_uv=False)
    shares = strengths / max(strengths.sum(), 1e-12)
    shares = shares[shares > 1e-12]  # noqa: PLR2004  zero has no logarithm
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 1.0


def uniformity(vectors: np.ndarray) -> float:
    """Minus the logarithm of the mean Gaussian potential of all pairs; 0 if all vectors are equal.

    References:
        https://arxiv.org/abs/2005.10242
    """
    unit = checked_unit_vectors(vectors)
    pairs = np.triu_indices(len(unit), k=1)
    squares = (unit**2).sum(axis=1)  # [N], 1 but for zero vectors
    distances = squares[:, None] + squares - 2 * unit @ unit.T  # [N, N], squared
    return float(-np.log(np.exp(-2 * distances[pairs]).mean()))


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Minus the mean squared distance between the two vectors of a pair, at most 0 (arXiv 2005.10242)."""
    return float(-((checked_unit_vectors(first) - checked_unit_vectors(second)) ** 2).sum(axis=1).mean())


def pair_accuracy(first: np.ndarray, second: np.ndarray) -> float:
    """Share of vectors for which their partner is the closest of all, averaged over both directions."""
    scores = checked_unit_vectors(first) @ checked_unit_vectors(second).T  # [M, M]
    own = np.arange(len(scores))
    return float(((scores.argmax(axis=1) == own).mean() + (scores.argmax(axis=0) == own).mean()) / 2)


def pair_contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Minus the InfoNCE loss of the pairs at temperature 0.05, at most 0."""
    scores = checked_unit_vectors(first) @ checked_unit_vectors(second).T / _TEMPERATURE  # [M, M]
    own = np.diag(scores)
    return float(((own - logsumexp(scores, axis=1)).mean() + (own - logsumexp(scores, axis=0)).mean()) / 2)


def silhouette(vectors: np.ndarray, clusters: Sequence[int], seed: int = 0) -> float:
    """Silhouette of k-means clusters by cosine distance, averaged over numbers of clusters; between -1 and 1."""
    unit = checked_unit_vectors(vectors)
    values = []
    for count in usable_counts(clusters, len(unit)):
        assigned = _kmeans(unit, count, seed).labels_
        values.append(silhouette_score(unit, assigned, metric="cosine") if 1 < len(set(assigned)) < len(unit) else 0.0)
    return float(np.mean(values))


def cluster_stability(vectors: np.ndarray, clusters: Sequence[int], seed: int = 0) -> float:
    """Agreement (adjusted Rand index) over all texts of clusterings fitted on two resamples, averaged over numbers of clusters.

    References:
        https://doi.org/10.1162/089976604773717621
    """
    unit = checked_unit_vectors(vectors)
    counts = usable_counts(clusters, len(unit))
    if _is_one_point(unit):
        return 0.0
    random = np.random.default_rng(seed)
    size = max(3, round(_RESAMPLE_SHARE * len(unit)))
    values = []
    for count in (min(count, size - 1) for count in counts):
        for _ in range(_RESAMPLES):
            one, other = (_kmeans(unit[random.permutation(len(unit))[:size]], count, seed).predict(unit) for _ in range(2))
            values.append(adjusted_rand_score(one, other) if len(set(one)) > 1 or len(set(other)) > 1 else 0.0)
    return float(np.mean(values))


def neighbour_contrast(vectors: np.ndarray) -> float:
    """By how many standard deviations the ten nearest neighbours are more similar than random pairs; 0 if all vectors are equal."""
    unit = checked_unit_vectors(vectors)
    scores = unit @ unit.T  # [N, N]
    others = scores[~np.eye(len(unit), dtype=bool)]
    near = np.take_along_axis(scores, _nearest(scores), axis=1)
    return float((near.mean() - others.mean()) / max(others.std(), 1e-6))


def hubness(vectors: np.ndarray) -> float:
    """Minus the skewness of how often a text is among another's ten nearest neighbours.

    References:
        https://jmlr.org/papers/v11/radovanovic10a.html
    """
    unit = checked_unit_vectors(vectors)
    counts = np.bincount(_nearest(unit @ unit.T).ravel(), minlength=len(unit)).astype(float)
    deviation = counts - counts.mean()
    return float(-(deviation**3).mean() / max(counts.std() ** 3, 1e-12))


def neighbour_consensus(vectors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """For each strategy, the share of neighbours that are also neighbours by the mean similarities of all other strategies.

    A strategy whose vectors are all equal has no neighbours: it gets 0 and is not counted for others.
    """
    total: np.ndarray | float = 0.0
    for matrix in vectors.values():
        total = total + _standardised(matrix)
    agreement = {}
    for name, matrix in vectors.items():
        own = _standardised(matrix)
        agreement[name] = float(_shared(own, total - own).mean())
    return agreement


def outside_agreement(candidates: Mapping[str, np.ndarray], references: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """For each candidate, how far its neighbours are those of references that judge all candidates alike.

    Unlike in :func:`neighbour_consensus`, candidates have no say in the judgement of one another, so that many alike ones do not praise
    themselves. That is so only if the references share no template with the candidates.

    Args:
        candidates: Vectors ``[N, D]`` by name.
        references: Vectors ``[N, D']`` of the same texts, of any width each.

    Returns:
        By candidate, float64 ``[N]``: for each text, the share of its ten nearest neighbours that are also among its ten nearest by the
        mean standardised similarities of the references; 0 if all vectors of the candidate, or of all references, are equal.

    Raises:
        CriteriaError: If there is no reference, there are fewer than three texts, or a vector is not finite.
    """
    total: np.ndarray | None = None
    for matrix in references:
        total = _standardised(matrix) if total is None else total + _standardised(matrix)
    if total is None:
        msg = "there is no reference to agree with; give at least one"
        raise CriteriaError(msg)
    return {name: _shared(_standardised(matrix), total) for name, matrix in candidates.items()}


def partition_consensus(vectors: Mapping[str, np.ndarray], clusters: int, seed: int = 0) -> dict[str, float]:
    """For each strategy, the mean adjusted Rand index of its k-means clusters with those of all others; 0 if all vectors are equal."""
    units = {name: checked_unit_vectors(matrix) for name, matrix in vectors.items()}
    assigned = {name: None if _is_one_point(unit) else _kmeans(unit, clusters, seed).labels_ for name, unit in units.items()}
    names = list(assigned)
    agreement = np.zeros((len(names), len(names)))
    for i, one in enumerate(names):
        for j, other in enumerate(names[:i]):
            if assigned[one] is None or assigned[other] is None:
                continue
            agreement[i, j] = agreement[j, i] = adjusted_rand_score(assigned[one], assigned[other])
    return {name: float(agreement[i].sum()) / max(len(names) - 1, 1) for i, name in enumerate(names)}


def criteria_table(
    vectors: Mapping[str, np.ndarray],
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]] | None,
    *,
    clusters: Sequence[int] = (10, 20, 50),
    max_texts: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute every criterion for every strategy.

    Args:
        vectors: Vectors ``[N, D]`` of the same texts by strategy.
        pairs: Vectors ``[M, D]`` of the first and second members of positive pairs by strategy; ``None`` if there are none.
        clusters: Numbers of clusters for the criteria based on clusters.
        max_texts: Maximum number of texts and pairs; cost grows with its square.
        seed: Seed of the clusterings.

    Returns:
        One row per strategy: ``strategy`` and the :data:`CRITERIA`; those of pairs are NaN without pairs.

    Raises:
        CriteriaError: If there are too few texts, no number of clusters fits, a vector is not finite, or strategies have different numbers
            of texts or lack pairs.
    """
    sizes = {name: len(matrix) for name, matrix in vectors.items()}
    if len(set(sizes.values())) > 1:
        msg = f"strategies have different numbers of vectors: {sizes}; embed the same texts with each"
        raise CriteriaError(msg)
    missing = [name for name in vectors if pairs is not None and name not in pairs]
    if missing:
        msg = f"pairs are missing for strategy {missing[0]!r}; add them, or pass pairs=None"
        raise CriteriaError(msg)
    selected = {name: matrix[:max_texts] for name, matrix in vectors.items()}
    counts = usable_counts(clusters, min((len(matrix) for matrix in selected.values()), default=0))
    neighbours = neighbour_consensus(selected)
    partitions = partition_consensus(selected, counts[len(counts) // 2], seed)
    rows = []
    for name, matrix in selected.items():
        row: dict[str, Any] = {
            "strategy": name,
            "effective_rank": effective_rank(matrix),
            "uniformity": uniformity(matrix),
            "alignment": np.nan,
            "pair_accuracy": np.nan,
            "pair_contrast": np.nan,
            "silhouette": silhouette(matrix, counts, seed),
            "cluster_stability": cluster_stability(matrix, counts, seed),
            "neighbour_contrast": neighbour_contrast(matrix),
            "hubness": hubness(matrix),
            "neighbour_consensus": neighbours[name],
            "partition_consensus": partitions[name],
        }
        if pairs is not None:
            first, second = (half[:max_texts] for half in pairs[name])
            row |= {
                "alignment": alignment(first, second),
                "pair_accuracy": pair_accuracy(first, second),
                "pair_contrast": pair_contrast(first, second),
            }
        rows.append(row)
    return pd.DataFrame(rows, columns=["strategy", *CRITERIA])


def combined_rank(table: pd.DataFrame, criteria: Sequence[str]) -> pd.Series:
    """The mean of the strategies' ranks by the given criteria, 1 being the best; criteria without values are ignored.

    Raises:
        CriteriaError: If none of the criteria has values.
    """
    ranks = table[list(criteria)].dropna(axis=1, how="all").rank(ascending=False, method="average")
    if ranks.empty:
        msg = f"none of the criteria {list(criteria)} has values (criteria of pairs need pairs); choose another one"
        raise CriteriaError(msg)
    return ranks.mean(axis=1).rename("rank")


def usable_counts(clusters: Sequence[int], texts: int) -> list[int]:
    """The numbers of clusters that suit a number of texts.

    Raises:
        CriteriaError: If none does.
    """
    counts = [count for count in clusters if 2 <= count < texts]  # noqa: PLR2004  one cluster says nothing
    if not counts:
        msg = f"no number of clusters in {list(clusters)} is at least 2 and less than the {texts} texts; give smaller ones or more texts"
        raise CriteriaError(msg)
    return counts


def _is_one_point(unit: np.ndarray) -> bool:
    exact = unit.astype(np.float64)
    return bool((exact**2).sum(axis=1).mean() - (exact.mean(axis=0) ** 2).sum() < _ONE_POINT)


def _standardised(vectors: np.ndarray) -> np.ndarray:
    """Similarities ``[N, N]`` with mean 0 and standard deviation 1; all 0 if the vectors are equal."""
    unit = checked_unit_vectors(vectors)
    if _is_one_point(unit):
        return np.zeros((len(unit), len(unit)), np.float32)
    scores = unit @ unit.T
    return (scores - scores.mean()) / max(float(scores.std()), 1e-6)


def _shared(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For each row, the share of its nearest by its own similarities that are its nearest by others, too, ``[N]``; 0 without either."""
    if not own.any() or not other.any():
        return np.zeros(len(own))
    mine, theirs = _nearest(own), _nearest(other)
    both = [len(set(a) & set(b)) for a, b in zip(mine.tolist(), theirs.tolist(), strict=True)]
    return np.array(both) / mine.shape[1]


def _nearest(scores: np.ndarray) -> np.ndarray:
    """Columns of each row's largest scores, excluding itself, ``[N, 10]``."""
    scores = scores.copy()
    np.fill_diagonal(scores, -np.inf)
    return largest(scores, min(_NEIGHBOURS, len(scores) - 1))


def _kmeans(unit: np.ndarray, count: int, seed: int) -> Any:
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than clusters, which the criterion itself shows
        return MiniBatchKMeans(count, batch_size=_BATCH, n_init=1, random_state=seed).fit(unit)
