"""Training on a cluster of this machine, against the same training in one process."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from embedding_adaptation.cluster import session, training
from embedding_adaptation.cluster.settings import ClusterError, ClusterSettings
from embedding_adaptation.cluster.training import Room, find_room, train_together
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError


@pytest.fixture(scope="module")
def ray():
    """Ray, stopped at the end; the first test that needs it starts it."""
    yield pytest.importorskip("ray", reason="Ray is not installed")
    session.stop(succeeded=False)


def weights_of(adapter):
    return {name: weight.detach() for name, weight in adapter.model.named_parameters() if "lora_" in name}


@pytest.mark.slow
def test_two_workers_give_the_gradients_of_one_process(ray, job_of, corpus, tmp_path, caplog):
    settings = {"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "corpus": corpus, "stopping": {"criterion": "validation_loss"}}
    expected, history = train(job_of(**settings))
    job = job_of(devices=2, checkpoints=tmp_path / "checkpoints", embedder={"cluster": {"folder": str(tmp_path / "blocks")}}, **settings)
    caplog.set_level("INFO")
    adapter, shared = train(job)
    one, two = weights_of(expected), weights_of(adapter)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], atol=1e-5, rtol=0)
    np.testing.assert_allclose(shared["train_loss"], history["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(shared["gradient_norm"], history["gradient_norm"], rtol=1e-4)
    assert "training in 2 processes on the cluster, 1 CPU cores each" in caplog.text
    assert "step 3: validation_loss" in caplog.text, "what the first process logs is not told here"
    assert len(list(tmp_path.glob("checkpoints/*/*/step-000003"))) == 1
    assert not list((tmp_path / "blocks").iterdir())


@pytest.mark.slow
def test_an_error_of_the_project_is_told_in_its_own_words(ray, job_of, tmp_path):
    job = job_of(steps=3, batch_size=8, devices=2, learning_rate=1e30, embedder={"cluster": {"folder": str(tmp_path)}})
    with pytest.raises(TrainingError, match=r"the training loss is nan at step \d; lower contrastive_finetuning.learning_rate"):
        train(job)


def nodes(*resources):
    return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": one} for one in resources])


@pytest.mark.parametrize(
    ("machines", "wanted", "room", "is_told"),
    [
        ([{"CPU": 16.0}, {"CPU": 8.0}], None, Room(2, 8, with_gpu=False), False),
        ([{"CPU": 16.0}, {"CPU": 8.0}, {}], 3, Room(3, 8, with_gpu=False), False),
        ([{"CPU": 2.0}], 8, Room(2, 1, with_gpu=False), True),
        ([{"CPU": 4.0}] * 5, None, Room(4, 4, with_gpu=False), True),
        ([{"CPU": 4.0}, {"CPU": 64.0, "GPU": 8.0}], None, Room(8, 1, with_gpu=True), False),
        ([{"CPU": 64.0, "GPU": 4.0}] * 2, 4, Room(4, 1, with_gpu=True), False),
    ],
)
def test_as_many_processes_as_there_is_room_for_and_a_batch_allows(tmp_path, monkeypatch, caplog, machines, wanted, room, is_told):
    monkeypatch.setattr(session, "connect", lambda _: None)
    monkeypatch.setitem(__import__("sys").modules, "ray", nodes(*machines))
    assert find_room(ClusterSettings(tmp_path), wanted, 96) == room
    assert ("no room for more" in caplog.text) == is_told


def test_a_cluster_without_cores_has_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "connect", lambda _: None)
    monkeypatch.setitem(__import__("sys").modules, "ray", nodes({"memory": 1.0}))
    with pytest.raises(ClusterError, match="neither GPUs nor CPU cores"):
        find_room(ClusterSettings(tmp_path), None, 96)


class WorkerGroupStartupTimeoutError(Exception):
    """Bears the name of Ray's."""


def controller_error(cause):
    error = RuntimeError("Training failed")
    error.controller_failure = cause
    return error


def test_fewer_processes_go_on_when_a_machine_has_gone(tmp_path, monkeypatch, caplog):
    rooms = [Room(4, 2, with_gpu=False)]
    monkeypatch.setattr(session, "connect", lambda _: None)
    monkeypatch.setattr(session, "check_machines", lambda _: None)
    monkeypatch.setattr(training, "find_room", lambda _, wanted, __: Room(wanted, 2, with_gpu=False))
    tried = []

    def fit(work, folder, room):
        tried.append(room.processes)
        return controller_error(WorkerGroupStartupTimeoutError()) if room.processes > left else None

    monkeypatch.setattr(training, "_fit", fit)
    left = 3
    train_together("a:b", tmp_path, ClusterSettings(tmp_path), rooms[0], 12)
    assert tried == [4, 3]
    assert "a machine has gone: 3 processes go on instead of 4" in caplog.text
    left = 0
    with pytest.raises(ClusterError, match="no machine free for training"):
        train_together("a:b", tmp_path, ClusterSettings(tmp_path), rooms[0], 12)


def test_processes_that_keep_dying_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "connect", lambda _: None)
    monkeypatch.setattr(session, "check_machines", lambda _: None)
    error = RuntimeError("Training failed")
    error.worker_failures = {1: ValueError("killed\nwith a traceback")}
    monkeypatch.setattr(training, "_fit", lambda *_: error)
    with pytest.raises(ClusterError, match=r"training on the cluster failed \(ValueError: killed\); run again"):
        train_together("a:b", tmp_path, ClusterSettings(tmp_path), Room(2, 1, with_gpu=False), 12)


def test_on_a_cluster_that_this_machine_would_start_one_process_trains(job_of, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session, "connect", lambda _: pytest.fail("it asks for a cluster"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cluster = {"embedder": {"cluster": {"folder": str(tmp_path)}}}
    for devices in (None, 1):
        job = job_of(steps=1, devices=devices, **cluster)
        assert train(replace(job))[1]["step"].tolist() == [0, 1]
