from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import HashStore

from embedding_adaptation.pipelines.contrastive_finetuning import launch as module
from embedding_adaptation.pipelines.contrastive_finetuning.launch import Launch, first_runs, launch

PROJECT = Path(__file__).parents[3]


def test_the_others_get_each_job_and_end_with_the_first():
    store = HashStore()
    first, other = Launch(0, 2, store), Launch(1, 2, store)
    for folder in (Path("/one"), Path("/two"), None):
        first.tell(folder)
    assert [(folder, other.number) for folder in other.jobs()] == [(Path("/one"), 1), (Path("/two"), 2)]
    assert (first.number, other.number) == (3, 3)


@pytest.fixture
def launched(monkeypatch):
    """The environment of the first of two processes, of which there is only this one."""
    store = HashStore()
    monkeypatch.setattr(module.distributed, "TCPStore", lambda *_, **__: store)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    return store


def test_the_first_looks_like_a_process_of_its_own_and_releases_the_others(launched):
    def run():
        assert launch().size == 2
        assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} & set(os.environ)
        return "result"

    assert first_runs(run, lambda _: pytest.fail("it trains")) == "result"
    assert launch() is None
    assert list(Launch(1, 2, module.distributed.PrefixStore("embedding_adaptation 0", launched)).jobs()) == []


@pytest.mark.parametrize(("code", "is_released"), [(0, True), (1, False)])
def test_a_command_that_fails_leaves_the_others_to_torchrun(launched, code, is_released):
    with pytest.raises(SystemExit):
        first_runs(lambda: sys.exit(code), lambda _: None)
    assert launched.check(["embedding_adaptation 0/job 1"]) is is_released


@pytest.mark.slow
def test_the_documented_command_trains_what_one_process_trains(tmp_path):
    """``torchrun -m embedding_adaptation`` with two processes, as on Slurm."""
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    shutil.copytree(PROJECT / "data" / "01_raw", tmp_path / "data" / "01_raw")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "COLUMNS": "200"}
    output = tmp_path / "out"
    program = ["-m", "embedding_adaptation", "--env=test", "--params=output=out"]

    def run(*command):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr + done.stdout

    said = run(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *program),
        "--pipelines=data_augmentation,contrastive_finetuning",
    )
    assert said.count("step 2: validation_loss") == 1
    (shared,) = output.glob("06_models/adapter/*/adapter/adapter_model.safetensors")
    (checkpoints,) = output.glob("06_models/training_checkpoints")
    assert not list(checkpoints.glob(".embedding-adaptation*")), "the job's folder is left"
    weights = load_file(shared)
    shutil.rmtree(shared.parents[1])
    shutil.rmtree(checkpoints)
    run(*program, "--pipelines=contrastive_finetuning")
    (alone,) = output.glob("06_models/adapter/*/adapter/adapter_model.safetensors")
    assert alone != shared
    expected = load_file(alone)
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=2e-5, rtol=0)
