from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from embedding_adaptation.pipelines.contrastive_finetuning.batches import BatchError, PairBatches


def apart(count):
    """Pairs that have nothing in common."""
    return np.arange(2 * count).reshape(count, 2)


def test_every_pair_comes_once_before_any_comes_again():
    batches = list(PairBatches(apart(20), batch_size=6, steps=10, seed=0))
    rows = [row for batch in batches for row in batch]
    assert [len(batch) for batch in batches] == [6] * 10
    assert sorted(rows[:18] + rows[18:20]) == sorted(range(20))
    assert all(len(set(batch)) == 6 for batch in batches)


def test_pairs_that_share_a_group_never_stand_together_and_none_is_lost():
    groups = apart(24)
    groups[:8, 0] = 999  # eight pairs of one source
    batches = list(PairBatches(groups, batch_size=4, steps=12, seed=0))
    assert all(sum(row < 8 for row in batch) <= 1 for batch in batches)
    assert {row for batch in batches for row in batch} == set(range(24))


def test_the_order_follows_the_seed_and_does_not_depend_on_how_many_steps_are_asked_for():
    whole = list(PairBatches(apart(20), batch_size=4, steps=12, seed=3))
    assert list(PairBatches(apart(20), batch_size=4, steps=5, seed=3)) == whole[:5]
    assert list(islice(PairBatches(apart(20), batch_size=4, steps=12, seed=4), 3)) != whole[:3]


def test_too_few_pairs_that_may_stand_together_are_refused():
    groups = apart(10)
    groups[:6, 0] = 999
    with pytest.raises(BatchError, match="only 5 of the 10 training pairs fit into a batch of 6"):
        PairBatches(groups, batch_size=6, steps=1, seed=0)
