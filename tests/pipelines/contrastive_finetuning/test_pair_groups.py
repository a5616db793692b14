from __future__ import annotations

import numpy as np
import pandas as pd

from embedding_adaptation.pipelines.contrastive_finetuning.pair_groups import conflicts, pair_groups

LONG = "the council has decided to close the public library on saturdays until further notice because of the budget"


def frame(rows):
    return pd.DataFrame(rows, columns=["source_id", "other_id", "source_text", "generated_text"])


def clash(pairs, **changes):
    options = {"same_source": True, "near_duplicate": 0.8} | changes
    return conflicts(pair_groups(pairs, **options))


def test_two_rewrites_of_one_text_are_no_negatives_of_each_other():
    pairs = frame([("1", "", "a red bus", "bus that is red"), ("1", "", "a red bus", "red vehicle"), ("2", "", "cold water", "water")])
    assert clash(pairs).tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_a_text_that_stands_on_the_other_side_counts_as_well():
    pairs = frame([("1", "2", "a red bus", "a blue bus"), ("2", "3", "a blue bus", "a tram"), ("4", "5", "water", "wine")])
    assert clash(pairs)[0].tolist() == [True, True, False]


def test_spans_of_one_text_are_of_one_source_only_if_asked():
    pairs = frame([("1", "", "first half", "second half"), ("1", "", "third part", "fourth part")])
    assert clash(pairs)[0, 1]
    assert not clash(pairs, same_source=False)[0, 1]


def test_texts_that_are_equal_but_for_case_are_one():
    pairs = frame([("1", "", "A red bus", "bus"), ("2", "", "water", "a  RED bus")])
    assert clash(pairs, same_source=False, near_duplicate=None)[0, 1]


def test_near_duplicates_are_one_only_below_the_threshold():
    pairs = frame([("1", "", LONG, "library hours"), ("2", "", LONG.replace("saturdays", "sundays"), "new times")])
    assert clash(pairs, near_duplicate=0.7)[0, 1]
    assert not clash(pairs, near_duplicate=None)[0, 1]


def test_pairs_without_sources_have_their_texts_alone():
    pairs = pd.DataFrame({"source_text": ["a", "b"], "generated_text": ["c", "a"]})
    groups = pair_groups(pairs, same_source=True, near_duplicate=None)
    assert groups.shape == (2, 2)
    assert conflicts(groups).all()
    assert np.array_equal(conflicts(groups[[0]]), [[True]])
