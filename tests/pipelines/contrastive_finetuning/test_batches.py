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


def slow_batches(groups, size, steps, seed):
    """Take the first pairs that fit, from the front of a list."""
    rng, waiting, found = np.random.default_rng(seed), [], []
    while len(found) < steps:
        waiting += rng.permutation(len(groups)).tolist()
        while len(found) < steps:
            places = []
            for place, row in enumerate(waiting):
                if len(places) < size and all(not set(groups[row]) & set(groups[waiting[other]]) for other in places):
                    places.append(place)
            if len(places) < size:
                break
            found.append([waiting[place] for place in places])
            waiting = [row for place, row in enumerate(waiting) if place not in places]
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_batches_are_those_that_are_drawn_from_the_front(seed):
    groups = apart(30)
    groups[::4, 0] = 999
    groups[1::5, 1] = 888
    assert list(PairBatches(groups, batch_size=5, steps=20, seed=seed)) == slow_batches(groups.tolist(), 5, 20, seed)
