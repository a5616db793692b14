from __future__ import annotations

import pytest
import torch

from embedding_adaptation.embedder import device as module
from embedding_adaptation.embedder.device import DeviceError, choose_device, choose_dtype


def test_a_missing_device_is_named_with_what_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"'cuda' is not available on this machine; choose from auto, .*cpu"):
        choose_device("cuda")


def test_auto_prefers_cuda_then_mps_then_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == "cpu"


@pytest.mark.parametrize(("bfloat16", "chosen"), [(3.0, torch.bfloat16), (0.3, torch.float32)])
def test_the_cpu_takes_bfloat16_only_where_it_measures_faster(monkeypatch, bfloat16, chosen):
    speeds = {"float32": 1.0, "bfloat16": bfloat16, "int8": 0.5}
    monkeypatch.setattr(module, "_products_per_second", lambda name, seconds: speeds[name])
    module._fastest_on_cpu.cache_clear()
    assert choose_dtype("auto", "cpu") == chosen
    module._fastest_on_cpu.cache_clear()


def test_the_measurement_counts_real_products():
    assert module._products_per_second("float32", 0.01) > 0


def test_gpus_take_bfloat16_and_a_named_format_is_kept():
    assert choose_dtype("auto", "cuda") == torch.bfloat16
    assert choose_dtype("float16", "cpu") == torch.float16
