from __future__ import annotations

import numpy as np
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.interpolation import scale_adapter
from embedding_adaptation.pipelines.contrastive_finetuning.seen_vectors import SeenVectors, weights_key
from embedding_adaptation.pipelines.contrastive_finetuning.setup import prepare

ROWS = [(1, 2), (3,), (1, 2), (4, 5, 6)]


def vectors_of(rows):
    return np.array([[len(row), sum(row)] for row in rows], np.float32)


def test_no_row_is_computed_twice_under_the_same_weights():
    seen, asked = SeenVectors(), []

    def compute(rows):
        asked.append(rows)
        return vectors_of(rows)

    np.testing.assert_array_equal(seen.of("a", ROWS, compute), vectors_of(ROWS))
    np.testing.assert_array_equal(seen.of("a", [(9,), *ROWS], compute), vectors_of([(9,), *ROWS]))
    np.testing.assert_array_equal(seen.of("b", [(3,)], compute), vectors_of([(3,)]))
    assert asked == [[(1, 2), (3,), (4, 5, 6)], [(9,)], [(3,)]]
    assert seen.rows_computed == 5


def test_the_oldest_are_forgotten_and_too_many_are_not_kept():
    seen, asked = SeenVectors(limit_mb=1), []

    def compute(rows):
        asked.append(len(rows))
        return np.full((len(rows), 1 << 17), len(rows[0]), np.float32)  # half a megabyte each

    for weights in ("a", "b", "c"):
        seen.of(weights, [(1,)], compute)
    seen.of("c", [(1,)], compute)
    seen.of("b", [(1,)], compute)
    assert asked == [1, 1, 1]
    seen.of("a", [(1,)], compute)
    assert asked == [1, 1, 1, 1]
    for _ in range(2):
        seen.of("d", [(1,), (2,), (3,)], compute)
    assert asked[-2:] == [3, 3]


def test_keys_tell_weights_apart_and_know_an_adapter_without_effect(job_of, tmp_path):
    setup = prepare(job_of(), tmp_path)

    def key():
        return weights_key(setup.model, {name: weight for name, weight in setup.model.named_parameters() if name in setup.initial})

    new = key()
    with torch.no_grad():
        for name, weight in setup.model.named_parameters():
            if name in setup.initial:
                weight.add_(0.05)
    trained = {name: weight.detach().clone() for name, weight in setup.model.named_parameters() if name in setup.initial}
    whole = key()
    assert whole != new
    with setup.model.disable_adapter():
        assert key() not in {whole, new}
    scale_adapter(setup, trained, 0.5)
    assert key() not in {whole, new}
    scale_adapter(setup, trained, 0.0)
    assert key() == new
    scale_adapter(setup, trained, 1.0)
    assert key() == whole


def test_reused_vectors_are_those_computed_anew(job_of, tmp_path):
    setup = prepare(job_of(), tmp_path)
    texts = ["a bus in the street", "water for the garden", "a bus in the street"]
    first = setup.encode(texts)
    count = setup.seen.rows_computed
    assert count == 2
    np.testing.assert_array_equal(setup.encode(texts[::-1]), first[::-1])
    assert setup.seen.rows_computed == count
    fresh = setup.cache.encode(list(setup.rows(texts))).numpy()
    np.testing.assert_allclose(first, fresh, atol=1e-5)
