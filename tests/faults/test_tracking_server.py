"""An MLflow server that is down when a run starts, and one that dies in the middle of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from faults.chain import Call, copied, kedro

pytestmark = [pytest.mark.faults, pytest.mark.full]


class Server:
    """A real ``mlflow server`` on this machine, which can be stopped and started again over the same store."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self.port = place.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--artifacts-destination", str(self.folder / "artifacts")],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).read()
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.2)
            else:
                return
        raise TimeoutError(self.uri)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def runs(self):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        experiment = client.get_experiment_by_name("faults")
        return client, client.search_runs([experiment.experiment_id])


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server")
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()


@pytest.mark.parametrize("when", ["at the start", "in the middle"])
def test_a_server_that_is_down_costs_neither_the_run_nor_its_log(when, stages, server, tmp_path):
    stage = stages("contrastive_finetuning")
    project = copied(stage.before, tmp_path / "project")
    (project / "conf" / "test" / "mlflow.yml").write_text("experiment: faults\nregistry: {enabled: false}\n")
    fault = None
    if when == "in the middle":
        server.start()
        group = server.process.pid
        fault = Call("plot_training_curve_node", lambda: os.killpg(group, signal.SIGKILL))
    outcome = kedro(project, *stage.arguments, fault=fault, MLFLOW_TRACKING_URI=server.uri)
    assert outcome.code == 0, outcome.output[-3000:]
    assert "The run continues" in outcome.output
    (pending,) = (project / "mlflow_pending").glob("*.jsonl")
    if server.process is not None:
        server.process.wait()
    server.start()
    sent = subprocess.run(
        [sys.executable, "-m", "embedding_adaptation.tracking", str(pending)],
        cwd=project, env={**os.environ, "MLFLOW_TRACKING_URI": server.uri}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr[-2000:]
    assert not pending.exists()
    client, runs = server.runs()
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "training_history.validation_loss")) == 4
    assert {"adapter", "training_curve", "training_report"} <= {item.path for item in client.list_artifacts(run.info.run_id)}
