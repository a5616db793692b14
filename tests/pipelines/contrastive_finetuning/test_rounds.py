from __future__ import annotations

import numpy as np
import pandas as pd

from embedding_adaptation.pipelines.contrastive_finetuning.options import RoundsOptions
from embedding_adaptation.pipelines.contrastive_finetuning.rounds import NeighbourRounds

CORPUS = pd.DataFrame({"id": list("abcdef"), "text": ["red bus", "blue tram", "cold water", "warm soup", "new book", "old letter"]})
VECTORS = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.1, 0.9, 0], [0, 0, 1], [0, 0.1, 0.9]])
NEIGHBOURS = pd.DataFrame(
    [("a", "b", "red bus", "blue tram", "neighbours")], columns=["source_id", "other_id", "source_text", "generated_text", "generator"]
)
REWRITES = pd.DataFrame(
    [("a", "", "red bus", "bus", "rewrite")], columns=["source_id", "other_id", "source_text", "generated_text", "generator"]
)


def rounds(given, current=None, first_rank=3.0, **changes):
    options = RoundsOptions(**({"every": 1, "neighbours": 1} | changes))
    return NeighbourRounds(CORPUS, given, given if current is None else current, options, first_rank)


def edges(pairs):
    mined = pairs[pairs["generator"] == "neighbours"]
    return {frozenset(ids) for ids in zip(mined["source_id"], mined["other_id"], strict=True)}


def test_neighbours_of_the_new_space_replace_the_old_ones_and_other_pairs_stay():
    mined = rounds(pd.concat([REWRITES, NEIGHBOURS])).mine(VECTORS)
    assert edges(mined) == {frozenset("ab"), frozenset("cd"), frozenset("ef")}
    assert mined["generator"].tolist().count("rewrite") == 1
    assert mined.loc[mined["source_id"] == "c", "generated_text"].item() == "warm soup"


def test_mining_ends_when_hardly_a_pair_is_new():
    current = rounds(NEIGHBOURS).mine(VECTORS)
    assert rounds(NEIGHBOURS, current).mine(VECTORS) is None
    assert rounds(NEIGHBOURS, NEIGHBOURS, min_change=0.7).mine(VECTORS) is None
    assert rounds(NEIGHBOURS, NEIGHBOURS, min_change=0.6).mine(VECTORS) is not None


def test_mining_ends_when_the_space_collapses(caplog):
    flat = np.ones((6, 3)) + np.arange(6)[:, None] * 1e-3 * np.array([1.0, 0, 0])
    assert rounds(NEIGHBOURS, first_rank=3.0).mine(flat) is None
    assert "mining of neighbours ends: the effective rank fell from 3.0 to 1.0" in caplog.text


def test_a_text_stands_in_no_more_pairs_than_allowed():
    star = np.array([[1, 0, 0], [0.99, 0.1, 0], [0.99, 0, 0.1], [0.99, -0.1, 0], [0.99, 0, -0.1], [-1, 0, 0]])
    mined = rounds(NEIGHBOURS, neighbours=5, max_pairs_per_text=1, min_similarity=-1.0, min_rank=0.0).mine(star)
    counts = pd.concat([mined["source_id"], mined["other_id"]]).value_counts()
    assert counts.max() == 1
