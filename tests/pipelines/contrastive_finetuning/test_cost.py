from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning.cost import counting, joules, layer_weights, operations


def test_weights_of_matrices_count_and_adapters_do_not():
    layer = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(3, 4), "norm": torch.nn.LayerNorm(3), "lora_A": torch.nn.Linear(3, 2)})
    assert layer_weights([layer, torch.nn.Linear(5, 2)]) == [12, 10]


def test_operations_are_two_for_each_weight_and_token():
    assert operations([10, 20, 30], 1, forward=7, backward=5, lower=3) == 2 * (50 * 12 + 10 * 3)


def test_packages_are_added_up_and_their_parts_are_not(tmp_path):
    for name, energy in (
        ("intel-rapl:0", "2000000"),
        ("intel-rapl:1", "500000"),
        ("intel-rapl:0:0", "900000"),
        ("intel-rapl:2", "unknown"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(energy)
    assert joules(tmp_path) == pytest.approx(2.5)


def test_a_machine_without_meters_says_so(tmp_path):
    assert joules(tmp_path) is None


def test_only_what_is_computed_within_counts(monkeypatch):
    meters = iter([1.0, 1.5])
    monkeypatch.setattr("embedding_adaptation.pipelines.contrastive_finetuning.cost.joules", lambda: next(meters))
    cache = SimpleNamespace(tokens=100, tokens_again=10, training_pass=SimpleNamespace(first_layer=1))
    lower = SimpleNamespace(tokens_computed=40)
    with counting(cache, lower, [10, 20, 30]) as spent:
        cache.tokens += 5
        cache.tokens_again += 2
        lower.tokens_computed += 3
    assert spent == {"tokens": 7, "operations": 2 * (50 * 12 + 10 * 3), "joules": 0.5}
