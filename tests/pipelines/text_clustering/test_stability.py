from __future__ import annotations

import numpy as np
import pandas as pd

from embedding_adaptation.pipelines.text_clustering.kmeans import small_labels, unit
from embedding_adaptation.pipelines.text_clustering.options import StabilityOptions
from embedding_adaptation.pipelines.text_clustering.stability import most_stable, stability_curve


def k_means(clusters):
    return {k: (lambda rows, seed, k=k: small_labels(rows, k, seed)) for k in clusters}


def test_the_true_number_of_groups_is_the_most_stable(groups):
    vectors, _ = groups((60, 60, 60, 60))
    options = StabilityOptions(candidates=(2, 3, 4, 5, 8), pairs=4)
    curve = stability_curve(unit(vectors), k_means(options.candidates), options, seed=0)
    assert curve["clusters"].tolist() == [2, 3, 4, 5, 8]
    assert curve.set_index("clusters")["agreement"][4] == 1.0
    assert most_stable(curve) == 4


def test_vectors_without_groups_agree_by_chance_only():
    vectors = unit(np.random.default_rng(0).normal(size=(150, 32)))

    def by_chance(rows, seed):
        return np.random.default_rng(seed).integers(4, size=len(rows))

    curve = stability_curve(vectors, {4: by_chance}, StabilityOptions(candidates=(2, 4), pairs=6), seed=0)
    assert abs(curve["agreement"][0]) < 0.05


def test_of_equally_stable_numbers_the_largest_is_taken():
    curve = pd.DataFrame({"clusters": [2, 5, 9, 12], "agreement": [0.80, 0.70, 0.77, 0.76], "standard_error": [0.035, 0.5, 0.0, 0.0]})
    assert most_stable(curve) == 9
