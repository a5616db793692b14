"""How many clusters there are: as many as come out again when other texts are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedding_adaptation.pipelines.text_clustering.options import StabilityOptions

    Clustering = Callable[[np.ndarray, int], np.ndarray]


def stability_curve(matrix: np.ndarray, clusterings: Mapping[int, Clustering], options: StabilityOptions, seed: int) -> pd.DataFrame:
    """Agreement of clusterings of resamples, for each number of clusters.

    Two resamples without replacement are clustered apart, and the clusterings compared on the texts that both hold by the adjusted Rand
    index, which is 0 on average where they agree by chance only, whatever the number of clusters.

    Args:
        matrix: What is clustered, ``[n, D]``.
        clusterings: For each number of clusters what finds them: takes rows and a seed, gives labels.
        options: Pairs of resamples and their share.
        seed: Seed of the resamples; every number of clusters sees the same.

    Returns:
        A row a number of clusters: ``clusters``, ``agreement`` (mean adjusted Rand index), ``standard_error`` over the pairs, ``pairs``.

    References:
        Ben-Hur, Elisseeff and Guyon, A stability based method for discovering structure in clustered data (PSB 2002); von Luxburg,
        Clustering stability: an overview (arXiv 1007.1075).
    """
    from sklearn.metrics import adjusted_rand_score
    from tqdm.auto import tqdm

    size = max(2, round(options.share * len(matrix)))
    found: dict[int, list[float]] = {clusters: [] for clusters in clusterings}
    with tqdm(total=options.pairs * len(clusterings), unit="pair", desc="stability") as bar:
        for pair in range(options.pairs):
            rng = np.random.default_rng([seed, pair])
            draws = [np.sort(rng.choice(len(matrix), size, replace=False)) for _ in range(2)]
            _, *common = np.intersect1d(draws[0], draws[1], assume_unique=True, return_indices=True)
            for clusters, clustering in clusterings.items():
                labels = [
                    clustering(matrix[rows], seed + 2 * pair + side)[places]
                    for side, (rows, places) in enumerate(zip(draws, common, strict=True))
                ]
                found[clusters].append(float(adjusted_rand_score(*labels)))
                bar.update()
    return pd.DataFrame(
        [
            {
                "clusters": clusters,
                "agreement": float(np.mean(values)),
                "standard_error": float(np.std(values, ddof=1) / np.sqrt(len(values))),
                "pairs": len(values),
            }
            for clusters, values in found.items()
        ]
    )


def most_stable(curve: pd.DataFrame) -> int:
    """The number of clusters to take: the largest whose agreement is at most one standard error below the best.

    Of numbers that are as stable as each other, the largest says most about the texts.

    References:
        The one-standard-error rule is that of Breiman, Friedman, Olshen and Stone, Classification and Regression Trees (1984), 3.4.3.
    """
    best = curve.iloc[int(curve["agreement"].to_numpy().argmax())]
    good = curve["agreement"] >= best["agreement"] - best["standard_error"]
    return int(curve.loc[good, "clusters"].max())
