from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.model_registry import RegistryOptions, champion_verdict, log_and_register, pinned_requirements, store_once
from embedding_adaptation.runtime import build_strategy

SCORED = {"evaluation.data": "d", "evaluation.protocol": "p", "score.v_measure": "0.6"}


@pytest.mark.parametrize(
    ("candidate", "champion", "min_gain", "moves", "reason"),
    [
        ({}, None, 0, True, "there was no champion"),
        (SCORED | {"score.v_measure": "0.61"}, SCORED, 0, True, "v_measure 0.6100 against the champion's 0.6000"),
        (SCORED, SCORED, 0, False, "v_measure 0.6000 against"),
        (SCORED | {"score.v_measure": "0.59"}, SCORED, 0, False, "0.5900"),
        (SCORED | {"score.v_measure": "0.61"}, SCORED, 0.02, False, "a gain of more than 0.02 is required"),
        (SCORED | {"score.v_measure": "0.9", "evaluation.data": "x"}, SCORED, 0, False, "with different labelled texts"),
        (SCORED | {"score.v_measure": "0.9", "evaluation.protocol": "x"}, SCORED, 0, False, "with different evaluation protocols"),
        ({}, SCORED, 0, False, "the new version has no score 'v_measure'"),
        (SCORED, {"evaluation.data": "d"}, 0, False, "the champion has no score 'v_measure'"),
    ],
)
def test_the_champion_moves_only_for_a_higher_score_on_the_same_data_and_protocol(candidate, champion, min_gain, moves, reason):
    verdict = champion_verdict(candidate, champion, RegistryOptions(min_gain=min_gain))
    assert verdict.moves is moves
    assert reason in verdict.reason


def test_requirements_are_the_installed_versions_without_local_suffixes():
    import torch

    requirements = list(pinned_requirements())
    assert f"torch=={torch.__version__.partition('+')[0]}" in requirements
    assert not [requirement for requirement in requirements if "+" in requirement or requirement.count("==") != 1]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A database store, an experiment and a run in it; the process's own store is another, and stays empty."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    return client, experiment, client.create_run(experiment).info.run_id


def rescored(folder: Path, facts: dict, mean: float | None) -> Path:
    changed = json.loads(json.dumps(facts))
    changed["evaluation"]["adapted"]["v_measure"]["mean"] = mean
    (folder / "model_facts.json").write_text(json.dumps(changed if mean is not None else changed | {"evaluation": None}))
    return folder


def test_versions_are_logged_with_tags_and_aliases_and_hold_the_very_files(store, exported, model_facts, tmp_path, monkeypatch):
    import mlflow

    client, experiment, run = store
    options = RegistryOptions(name="mine")

    def register(mean):
        folder = rescored(exported, model_facts, mean)
        return log_and_register(client, experiment, run, folder, "adapted_embedder", options, {"git.commit": "abc"})

    def aliases():
        return {alias: int(version) for alias, version in client.get_registered_model("mine").aliases.items()}

    assert register(0.61) == "1"
    assert aliases() == {"candidate": 1, "champion": 1}
    register(0.5)
    assert aliases() == {"candidate": 2, "champion": 1}
    register(None)
    assert aliases() == {"candidate": 3, "champion": 1}
    register(0.7)
    assert aliases() == {"candidate": 4, "champion": 4}

    tags = client.get_model_version("mine", "4").tags
    assert tags["score.v_measure"] == "0.7"
    assert tags["base_score.v_measure"] == "0.51"
    assert tags["adapter.version"] == "2026-01-01T00.00.00.000Z"
    assert (tags["git.commit"], tags["base_model"]) == ("abc", "random:tiny-llama")
    assert len(tags["evaluation.data"]) == 64
    assert "0.7000 against the champion's 0.6100" in tags["champion.verdict"]
    assert "the new version has no score" in client.get_model_version("mine", "3").tags["champion.verdict"]
    assert list(Path.cwd().iterdir()) == []

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    info = mlflow.models.get_model_info("models:/mine@champion")
    assert info.signature.inputs.to_dict() == [{"type": "tensor", "tensor-spec": {"dtype": "object", "shape": (-1,)}}]
    assert info.signature.outputs.to_dict()[0]["tensor-spec"] == {"dtype": "float32", "shape": (-1, 32)}
    folder = Path(mlflow.artifacts.download_artifacts("models:/mine@champion", dst_path=str(tmp_path / "fetched")))
    for file in exported.rglob("*"):
        copy = folder / "model.sentence_transformer" / file.relative_to(exported)
        assert not copy.is_symlink()
        assert file.is_dir() or copy.read_bytes() == file.read_bytes()
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pickle", ".bin", ".pt"}]
    assert "sentence-transformers==" in (folder / "requirements.txt").read_text()
    assert str(tmp_path / "adapted_embedder") not in (folder / "MLmodel").read_text()


def test_a_model_that_could_not_be_written_is_not_registered_and_marked_as_failed(store, exported, model_facts):
    client, experiment, run = store
    del model_facts["dimensions"]
    (exported / "model_facts.json").write_text(json.dumps(model_facts))
    with pytest.raises(KeyError, match="dimensions"):
        log_and_register(client, experiment, run, exported, "adapted_embedder", RegistryOptions(), {})
    (logged,) = client.search_logged_models([experiment])
    assert str(logged.status) == "FAILED"
    assert client.search_registered_models() == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": ["a", None]}, "input 1 is missing (null), not a text"),
        ({"inputs": ["a", 1]}, "input 1 is 1 (int), not a text"),
        ({"inputs": [True]}, "input 0 is True (bool), not a text"),
        ({"instances": [None]}, "input 0 is missing (null), not a text"),
        ({"inputs": [["a", "b"]]}, "input 0 is ['a', 'b'] (list), not a text"),
        ({"dataframe_split": {"columns": ["t"], "data": [["a"], [None]]}}, "input 1 is missing (null), not a text"),
        ({"dataframe_records": [{"t": 3}]}, "input 0 is 3 (int), not a text"),
        ({"dataframe_split": {"columns": ["t", "u"], "data": [["a", "b"]]}}, "2 columns"),
    ],
)
def test_the_server_refuses_what_is_no_text(logged_model, body, message):
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import invocations

    with pytest.raises(MlflowException) as caught:
        invocations(json.dumps(body), "application/json", logged_model, logged_model.metadata.get_input_schema())
    assert message in caught.value.message
    assert caught.value.get_http_status_code() == 400


def test_the_general_interface_embeds_an_array_or_a_column_of_texts(logged_model, tiny_adapted, embedder_options):
    import pandas as pd

    texts = ["the bus is late", ""]
    embedder = Embedder.load(tiny_adapted, device="cpu", dtype="float32", max_length=64)
    expected = embedder.encode(texts, build_strategy("prompted_last_adapted", embedder_options()), progress=False)
    for given in (np.array(texts), np.array(texts, dtype=object), pd.DataFrame({"any": texts}), pd.Series(texts)):
        np.testing.assert_allclose(logged_model.predict(given), expected, atol=1e-5)


@pytest.fixture
def logged_model(exported, tmp_path):
    """The exported model as MLflow's general interface loads it."""
    from types import SimpleNamespace

    import mlflow

    from embedding_adaptation.model_registry import write_mlflow_model

    entry = SimpleNamespace(artifact_location="x", model_id="m-1", source_run_id="r")
    write_mlflow_model(exported, tmp_path / "logged", 32, entry)
    return mlflow.pyfunc.load_model(str(tmp_path / "logged"))


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def request(address: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return answer.read()


@pytest.mark.slow
def test_mlflow_serves_the_registered_model_over_http(store, exported, tiny_adapted, embedder_options, tmp_path):
    client, experiment, run = store
    log_and_register(client, experiment, run, exported, "adapted_embedder", RegistryOptions(name="mine"), {})
    address = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path / "serve.log"
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
    }
    command = [scripts / "mlflow", "models", "serve", "-m", "models:/mine@champion", "--env-manager", "local", "-h", "127.0.0.1"]
    with log.open("w") as output:
        # A session of its own: the command starts a server, which has to end with it.
        process = subprocess.Popen([*command, "-p", str(port)], env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            deadline = time.monotonic() + 180
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                try:
                    request(f"{address}/ping")
                    break
                except OSError:
                    time.sleep(0.5)
            texts = ["the bus is late", "water " * 90, "🎉 مرحبا"]
            vectors = json.loads(request(f"{address}/invocations", {"inputs": texts}))["predictions"]
            one = json.loads(request(f"{address}/invocations", {"dataframe_split": {"columns": ["text"], "data": [[texts[0]]]}}))
            with pytest.raises(urllib.error.HTTPError) as refused:
                request(f"{address}/invocations", {"inputs": ["the bus is late", None]})
            # Read while the server stands: what it had not sent yet is lost with it.
            message = json.loads(refused.value.read())["message"]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    embedder = Embedder.load(tiny_adapted, device="cpu", dtype="float32", max_length=64)
    expected = embedder.encode(texts, build_strategy("prompted_last_adapted", embedder_options()), progress=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    np.testing.assert_allclose(one["predictions"], expected[:1], atol=1e-4)
    assert refused.value.code == 400
    assert "input 1 is missing (null), not a text" in message


def test_large_files_are_stored_once_and_outlive_either_side(tmp_path):
    folder, copy = tmp_path / "exported", tmp_path / "store" / "artifacts" / "model"
    folder.mkdir()
    copy.mkdir(parents=True)
    for name, here, there in (("same", b"a", b"a"), ("other", b"a", b"b"), ("small", b"", b"")):
        (folder / name).write_bytes(here * (2 << 20) or b"little")
        (copy / name).write_bytes(there * (2 << 20) or b"little")
    assert store_once(folder, (tmp_path / "store" / "artifacts").as_uri()) == 2 << 20
    assert {path.name for path in copy.iterdir() if path.samefile(folder / path.name)} == {"same"}
    assert (copy / "other").read_bytes()[:1] == b"b"
    (folder / "same").unlink()
    assert (copy / "same").read_bytes() == b"a" * (2 << 20)
    assert store_once(folder, "s3://bucket/artifacts") == 0
    assert sorted(path.name for path in copy.iterdir()) == ["other", "same", "small"]
