from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.vectors import criteria
from embedding_adaptation.vectors.criteria import CRITERIA, combined_rank, criteria_table

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(size=(300, 16)).astype(np.float32)
CENTRES = 6 * RANDOM.normal(size=(5, 16))
BLOBS = (CENTRES[np.arange(300) % 5] + RANDOM.normal(size=(300, 16))).astype(np.float32)
ONE = np.ones((300, 16), np.float32)


def test_effective_rank_is_that_of_known_spectra():
    assert criteria.effective_rank(ONE) == pytest.approx(1.0, abs=1e-3)
    assert criteria.effective_rank(np.eye(16)) == pytest.approx(16.0)
    assert 14 < criteria.effective_rank(NOISE) <= 16


def test_uniformity_is_zero_for_one_point_and_grows_with_spread():
    assert criteria.uniformity(ONE) == pytest.approx(0.0, abs=1e-4)
    assert criteria.uniformity(ONE) < criteria.uniformity(BLOBS) < criteria.uniformity(NOISE)


def test_pairs_that_agree_score_higher():
    near = NOISE + 0.1 * RANDOM.normal(size=NOISE.shape)
    far = RANDOM.normal(size=NOISE.shape)
    for score in (criteria.alignment, criteria.pair_accuracy, criteria.pair_contrast):
        assert score(NOISE, near) > score(NOISE, far)
    assert criteria.alignment(NOISE, NOISE) == pytest.approx(0.0, abs=1e-6)
    assert criteria.pair_accuracy(NOISE, NOISE) == 1.0


@pytest.mark.parametrize("score", [criteria.silhouette, criteria.cluster_stability])
def test_clusters_that_are_there_beat_noise(score):
    assert score(BLOBS, [5]) > 0.4
    assert score(BLOBS, [5]) > score(NOISE, [5]) + 0.3
    assert score(BLOBS, [5], seed=1) == score(BLOBS, [5], seed=1)


def test_neighbours_stand_out_in_clusters_and_nowhere_in_one_point():
    assert criteria.neighbour_contrast(BLOBS) > 1.0
    assert criteria.neighbour_contrast(ONE) == pytest.approx(0.0, abs=0.2)


def test_a_hub_is_noticed():
    hubs = NOISE + 3 * NOISE[:1]
    hubs[1:] += 2 * RANDOM.normal(size=(299, 16))
    assert criteria.hubness(hubs) < criteria.hubness(NOISE)


def test_consensus_is_highest_for_those_that_agree():
    vectors = {"a": BLOBS, "b": BLOBS + 0.1 * NOISE, "odd": RANDOM.normal(size=BLOBS.shape)}
    for agreement in (criteria.neighbour_consensus(vectors), criteria.partition_consensus(vectors, 5)):
        assert agreement["odd"] < min(agreement["a"], agreement["b"])


def slow_outside_agreement(candidate, references):
    def neighbours(scores):
        nearest = []
        for own, row in enumerate(scores):
            others = sorted((other for other in range(len(row)) if other != own), key=lambda other, row=row: -row[other])
            nearest.append(set(others[:10]))
        return nearest

    def standardised(vectors):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = unit @ unit.T
        return (scores - scores.mean()) / scores.std()

    theirs = neighbours(np.mean([standardised(reference) for reference in references], axis=0))
    return [len(a & b) / 10 for a, b in zip(neighbours(standardised(candidate)), theirs, strict=True)]


def test_agreement_with_outsiders_is_that_of_the_obvious_loop():
    candidates = {"blobs": BLOBS + 0.2 * NOISE, "noise": NOISE}
    references = [BLOBS, BLOBS + 0.1 * NOISE]
    agreement = criteria.outside_agreement(candidates, references)
    for name, candidate in candidates.items():
        np.testing.assert_allclose(agreement[name], slow_outside_agreement(candidate, references), atol=1e-9)
    assert agreement["blobs"].mean() > agreement["noise"].mean()


def test_candidates_that_are_alike_do_not_praise_one_another():
    other = RANDOM.normal(size=BLOBS.shape)
    many = {f"copy {n}": other for n in range(9)}
    agreement = criteria.outside_agreement({"right": BLOBS, **many}, [BLOBS])
    assert agreement["right"].mean() == 1.0
    consensus = criteria.neighbour_consensus({"right": BLOBS, **many})
    assert consensus["copy 0"] > consensus["right"] + 0.5
    assert agreement["copy 0"].mean() < 0.3


def test_who_has_no_neighbours_agrees_with_nobody():
    assert criteria.outside_agreement({"one": ONE, "blobs": BLOBS}, [BLOBS])["one"].tolist() == [0.0] * len(ONE)
    assert not criteria.outside_agreement({"blobs": BLOBS}, [ONE])["blobs"].any()
    with pytest.raises(ValueError, match="there is no reference to agree with; give at least one"):
        criteria.outside_agreement({"blobs": BLOBS}, [])


def test_the_table_has_every_criterion_of_every_strategy():
    vectors = {"blobs": BLOBS, "noise": NOISE, "one": ONE}
    table = criteria_table(vectors, None, clusters=[5, 999])
    assert list(table["strategy"]) == list(vectors)
    assert list(table.columns) == ["strategy", *CRITERIA]
    of_pairs = ["alignment", "pair_accuracy", "pair_contrast"]
    assert table[of_pairs].isna().all(axis=None)
    assert np.isfinite(table.drop(columns=["strategy", *of_pairs])).all(axis=None)
    with_pairs = criteria_table(vectors, {name: (v[:50], v[50:100]) for name, v in vectors.items()}, clusters=[5])
    assert with_pairs.notna().all(axis=None)


def test_ranks_are_averaged_and_criteria_without_values_left_out():
    table = pd.DataFrame({"strategy": ["a", "b", "c"], "x": [3.0, 2.0, 1.0], "y": [1.0, 1.0, 0.0], "z": [np.nan] * 3})
    assert combined_rank(table, ["x", "y", "z"]).tolist() == [1.25, 1.75, 3.0]


@pytest.mark.parametrize(
    ("vectors", "clusters", "message"),
    [
        ({"a": NOISE[:2]}, [5], "no number of clusters in"),
        ({"a": NOISE}, [1, 300], r"no number of clusters in \[1, 300\] is at least 2 and less than the 300 texts"),
        ({"a": np.full((9, 3), np.nan)}, [2], "9 of 9 vectors contain NaN or infinite values"),
        ({}, [2], "no number of clusters"),
    ],
)
def test_what_cannot_be_judged_is_an_error(vectors, clusters, message):
    with pytest.raises(ValueError, match=message):
        criteria_table(vectors, None, clusters=clusters)


def test_two_vectors_are_too_few():
    with pytest.raises(ValueError, match="at least 3 vectors, but got 2"):
        criteria.checked_unit_vectors(NOISE[:2])


LENGTHS = np.repeat([1.0, 1.7, 3.3, 9.1, 2.9], 60).astype(np.float32)
SCALED = LENGTHS[:, None] * RANDOM.normal(size=16).astype(np.float32)


def test_strategies_that_map_all_texts_to_one_point_agree_with_nobody():
    vectors = {"a": BLOBS, "b": BLOBS + 0.1 * NOISE, "one": ONE, "scaled": SCALED}
    for agreement in (criteria.neighbour_consensus(vectors), criteria.partition_consensus(vectors, 5)):
        assert agreement["one"] == agreement["scaled"] == 0.0
        assert agreement["a"] > 0.1


@pytest.mark.parametrize("vectors", [ONE, SCALED, 0 * ONE])
def test_one_point_is_neither_stable_nor_spread(vectors):
    assert criteria.cluster_stability(vectors, [5]) == 0.0
    assert criteria.uniformity(vectors) == pytest.approx(0.0, abs=1e-5)


def test_ranking_by_criteria_without_values_is_an_error():
    table = criteria_table({"blobs": BLOBS, "noise": NOISE}, None, clusters=[5])
    with pytest.raises(ValueError, match="none of the criteria"):
        combined_rank(table, ["pair_accuracy", "alignment"])


def test_strategies_of_different_texts_or_without_pairs_are_an_error():
    with pytest.raises(ValueError, match="different numbers of vectors"):
        criteria_table({"a": BLOBS, "b": NOISE[:50]}, None, clusters=[5])
    with pytest.raises(ValueError, match="pairs are missing for strategy 'b'"):
        criteria_table({"a": BLOBS, "b": NOISE}, {"a": (BLOBS, NOISE)}, clusters=[5])


def test_a_number_of_clusters_that_fits_the_texts_but_not_a_resample_is_no_error():
    assert np.isfinite(criteria.cluster_stability(NOISE[:20], [15]))


def test_the_table_is_the_same_every_time():
    vectors = {"blobs": BLOBS, "noise": NOISE}
    pd.testing.assert_frame_equal(criteria_table(vectors, None, clusters=[5]), criteria_table(vectors, None, clusters=[5]))
