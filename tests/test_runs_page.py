from __future__ import annotations

import json
import signal
from urllib.parse import parse_qs

import pytest
from mlflow import MlflowClient

from embedding_adaptation.headlines import METRICS
from embedding_adaptation.runs_page import main, runs_address, share_view


def test_the_address_leads_to_the_table_of_runs_with_its_view():
    place, _, query = runs_address("http://127.0.0.1:5000/", "7").partition("?")
    assert place == "http://127.0.0.1:5000/#/experiments/7/runs"
    asked = parse_qs(query)
    assert asked["workflowType"] == ["machine_learning"]
    assert asked["compareRunsMode"] == ["TABLE"]
    assert asked["viewStateShareKey"] == ["headlines"]


def test_the_view_shows_the_headlines_and_leaves_a_kind_that_was_chosen(tmp_path):
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("e", tags={"mlflow.experimentKind": "finetuning"})
    share_view(client, experiment)
    tags = client.get_experiment(experiment).tags
    columns = json.loads(tags["mlflow.sharedViewState.headlines"])["selectedColumns"]
    assert {"metrics.`exported_score`", "metrics.`gain_low`", "metrics.`best_score`", "tags.`verdict`"} <= set(columns)
    assert {column[9:-1] for column in columns if column.startswith("metrics.")} <= set(METRICS)
    assert tags["mlflow.experimentKind"] == "finetuning"


def test_without_a_tracked_run_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["--no-browser"]) == 1
    assert "run 'kedro run' first" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_that_is_not_there_is_told_with_those_that_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").create_experiment("mine")
    assert main(["--no-browser", "--experiment", "other"]) == 1
    assert "choose with ARGS='--experiment NAME' from Default, mine" in capsys.readouterr().err


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """A project whose mlflow.yml names a store and an experiment, and the store."""
    (tmp_path / "conf" / "base").mkdir(parents=True)
    for name in ("mine", "local"):
        (tmp_path / "conf" / name).mkdir()
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    (tmp_path / "conf" / "base" / "mlflow.yml").write_text(f"tracking_uri: {uri}\nexperiment: ours\n")
    (tmp_path / "conf" / "mine" / "mlflow.yml").write_text("experiment: mine\n")
    for variable in ("MLFLOW_TRACKING_URI", "KEDRO_ENV"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return MlflowClient(tracking_uri=uri)


@pytest.mark.parametrize(
    ("arguments", "environment", "experiment"),
    [((), None, "ours"), (("--env", "mine"), None, "mine"), ((), "mine", "mine"), (("--experiment", "given"), "mine", "given")],
)
def test_store_and_experiment_are_those_of_the_configuration(configured, monkeypatch, arguments, environment, experiment):
    started = []

    class Process:
        def __init__(self, command, env):
            started.append((command, env))

        def wait(self):
            return 0

        poll = terminate = wait

    monkeypatch.setattr("embedding_adaptation.runs_page.subprocess.Popen", Process)
    if environment:
        monkeypatch.setenv("KEDRO_ENV", environment)
    identity = configured.create_experiment(experiment)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["--no-browser", *arguments]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    ((command, variables),) = started
    assert command[command.index("--backend-store-uri") + 1] == variables["MLFLOW_TRACKING_URI"] == configured.tracking_uri
    assert "mlflow.sharedViewState.headlines" in configured.get_experiment(identity).tags


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [("experimnt: a", (), "unknown setting 'experimnt' in mlflow.yml"), ("", ("--env", "miine"), "unknown environment 'miine'")],
)
def test_a_configuration_that_cannot_be_used_is_told(configured, tmp_path, capsys, content, arguments, message):
    (tmp_path / "conf" / "base" / "mlflow.yml").write_text(content)
    assert main(["--no-browser", *arguments]) == 1
    assert message in capsys.readouterr().err
