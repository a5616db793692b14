from __future__ import annotations

import json
from urllib.parse import parse_qs

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
