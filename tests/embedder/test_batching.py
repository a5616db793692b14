from __future__ import annotations

import random

from embedding_adaptation.embedder.batching import token_budget_batches


def test_batches_hold_every_sequence_once_and_keep_to_the_budget():
    lengths = [random.Random(0).randint(1, 60) for _ in range(500)]
    batches = token_budget_batches(lengths, 128)
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 128 for batch in batches)


def test_the_longest_sequences_come_first():
    lengths = [3, 50, 7, 20]
    assert token_budget_batches(lengths, 40) == [[1], [3, 2], [0]]


def test_a_sequence_above_the_budget_gets_a_batch_of_its_own():
    assert token_budget_batches([300, 2, 2], 100) == [[0], [1, 2]]


def test_nothing_gives_no_batch():
    assert token_budget_batches([], 10) == []
