from __future__ import annotations

import numpy as np

from embedding_adaptation.pipelines.contrastive_finetuning.text_batches import TextBatches

NEIGHBOURS = np.array([[(text + 1) % 20, (text + 2) % 20] for text in range(20)])


def batches(**changes):
    return list(TextBatches(range(20), NEIGHBOURS, {}, **({"batch_size": 6, "steps": 9, "seed": 3} | changes)))


def test_a_batch_has_each_text_once_and_is_full():
    for batch in batches():
        assert len(batch) == len(set(batch)) == 6


def test_a_text_comes_with_its_neighbours_and_partners():
    partners = {text: [(text + 10) % 20] for text in range(20)}
    for batch in TextBatches(range(20), NEIGHBOURS, partners, batch_size=4, steps=9, seed=0):
        first = batch[0]
        assert batch == [first, (first + 10) % 20, (first + 1) % 20, (first + 2) % 20]


def test_held_out_texts_are_in_no_batch():
    drawn = list(TextBatches(range(0, 20, 2), NEIGHBOURS, {}, batch_size=5, steps=20, seed=0))
    assert {text for batch in drawn for text in batch} == set(range(0, 20, 2))


def test_the_order_follows_from_the_seed_alone():
    assert batches() == batches()
    assert batches()[:4] == batches(steps=4)
    assert batches() != batches(seed=4)


def test_all_texts_are_drawn_before_one_is_drawn_again():
    drawn = list(TextBatches(range(20), np.empty((20, 0), int), {}, batch_size=5, steps=4, seed=0))
    assert sorted(text for batch in drawn for text in batch) == list(range(20))
