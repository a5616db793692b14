from __future__ import annotations

import json
import logging
import math
import multiprocessing
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset, Version
from kedro.io.data_catalog import SharedMemoryDataCatalog
from kedro.pipeline import Node, Pipeline
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset
from mlflow import MlflowClient

from embedding_adaptation.datasets.exported_embedder import ExportedEmbedderDataset
from embedding_adaptation.datasets.texts import TextStreamDataset
from embedding_adaptation.options import Options
from embedding_adaptation.tracking import (
    MlflowTracking,
    TrackingError,
    dataset_metrics,
    flatten_parameters,
    main,
    send_pending,
    tracking_uri,
)


class Inner(Options):
    rate: float = 0.5


class Typed(Options):
    steps: int = 3
    inner: Inner = Inner()


def make_history(options):
    return pd.DataFrame({"step": [0, 1], "loss": [2.0, 1.5], "accuracy": [None, 0.5]}), {"kept": {"texts": 4}}


PIPELINE = Pipeline([Node(make_history, "params:training", ["history", "counts"], name="make_node")])


class Run:
    """One pretended Kedro run over real datasets: the hook is called as Kedro calls it."""

    def __init__(self, project: Path, *, settings: dict | None = None, wishes: dict | None = None, private: bool = False) -> None:
        self.project = project
        self.hook = MlflowTracking()
        wish = {"metrics": {"step": "step"}, "artifact": True} if wishes is None else wishes
        self.catalog = DataCatalog(
            {
                "params:training": MemoryDataset(Typed()),
                "history": CSVDataset(filepath=str(project / "history.csv"), metadata={"mlflow": wish}),
                "counts": JSONDataset(filepath=str(project / "counts.json"), metadata={"mlflow": {"metrics": {}}}),
            }
        )
        configuration = {"mlflow": settings or {}, "globals": {"private": private}}
        context = SimpleNamespace(project_path=project, env="test", config_loader=configuration)
        self.hook.after_context_created(context)

    def start(self) -> None:
        params = {"pipeline_names": ["training"], "run_id": "2026-01-01T00.00.00.000Z", "runtime_params": {"training.steps": 3}}
        self.hook.before_pipeline_run(params, PIPELINE, self.catalog)

    def work(self) -> None:
        node = PIPELINE.nodes[0]
        for name, data in zip(("history", "counts"), make_history(None), strict=True):
            self.catalog.save(name, data)
            self.hook.after_dataset_saved(name, data)
        self.hook.after_node_run(node)


def only_run(project: Path, experiment: str = "embedding-adaptation"):
    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return client, run


@pytest.fixture(autouse=True)
def no_server_of_the_users_own(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_run_logs_what_the_catalog_asks_for(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = Run(tmp_path)
    run.start()
    run.work()
    run.hook.after_pipeline_run()
    client, logged = only_run(tmp_path)
    assert logged.info.status == "FINISHED"
    assert logged.data.params == {"training.steps": "3", "training.inner.rate": "0.5", "command_line.training.steps": "3"}
    assert logged.data.metrics == {"history.loss": 1.5, "history.accuracy": 0.5, "counts.kept.texts": 4.0}
    assert [(m.step, m.value) for m in client.get_metric_history(logged.info.run_id, "history.loss")] == [(0, 2.0), (1, 1.5)]
    assert logged.data.tags["kedro.env"] == "test"
    assert {"git.commit", "git.dirty", "kedro.command", "kedro.version"} <= set(logged.data.tags)
    assert [item.path for item in client.list_artifacts(logged.info.run_id, "history")] == ["history/history.csv"]
    assert logged.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    assert list(elsewhere.iterdir()) == []


def test_a_report_about_texts_makes_them_a_dataset_once_and_sums_up_the_run(tmp_path):
    run = Run(tmp_path)
    wish = {"headline": "corpus", "texts": {"context": "training", "source": "corpus"}}
    run.catalog["corpus_report"] = JSONDataset(filepath=str(tmp_path / "report.json"), metadata={"mlflow": wish})
    run.catalog["corpus"] = TextStreamDataset(filepath=str(tmp_path / "mine.txt"))
    report = {"corpus": "mine.txt", "texts": 9, "kept": 7, "identity": {"raw": "r" * 32, "clean": "c"}, "examples": ["secretword"]}
    run.start()
    run.hook.after_dataset_saved("corpus_report", report)
    run.hook.after_dataset_loaded("corpus_report", report)
    run.hook.after_pipeline_run()
    logged = only_run(tmp_path)[1]
    assert logged.data.metrics == {"number_of_texts": 7.0}
    (used,) = logged.inputs.dataset_inputs
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert (used.dataset.name, used.dataset.digest) == ("mine.txt", "r" * 32)
    assert json.loads(used.dataset.source) == {"uri": str(tmp_path / "mine.txt")}
    assert json.loads(used.dataset.profile) == {"num_rows": 9, "clean_texts": 7}
    assert "secretword" not in str(logged.to_dictionary())


def test_a_figure_is_a_page_that_needs_no_network_too(tmp_path):
    run = Run(tmp_path)
    file = tmp_path / "curve.json"
    file.write_text(json.dumps({"data": [{"type": "scatter", "x": [1, 2], "y": [3, 4]}], "layout": {}}))
    run.catalog["curve"] = JSONDataset(filepath=str(file), metadata={"mlflow": {"artifact": True, "html": True}})
    run.start()
    run.hook.after_dataset_saved("curve", None)
    run.hook.after_pipeline_run()
    client, logged = only_run(tmp_path)
    assert {item.path for item in client.list_artifacts(logged.info.run_id, "curve")} == {"curve/curve.html", "curve/curve.json"}
    page = Path(client.download_artifacts(logged.info.run_id, "curve/curve.html", str(tmp_path))).read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert re.search(r'<script[^>]{0,60} src="http', page) is None


def test_the_experiment_is_one_of_models_and_keeps_the_kind_a_person_gave_it(tmp_path):
    for kind in ("custom_model_development", "finetuning"):
        run = Run(tmp_path)
        run.start()
        run.hook.after_pipeline_run()
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("embedding-adaptation")
        assert experiment.tags["mlflow.experimentKind"] == kind
        client.set_experiment_tag(experiment.experiment_id, "mlflow.experimentKind", "finetuning")


def test_versions_of_datasets_become_tags(tmp_path):
    run = Run(tmp_path)
    run.catalog["history"] = CSVDataset(filepath=str(tmp_path / "v.csv"), version=Version(None, "2026-01-01T00.00.00.000Z"))
    run.start()
    run.work()
    run.catalog.load("history")
    run.hook.after_dataset_loaded("history", None)
    run.hook.after_pipeline_run()
    tags = only_run(tmp_path)[1].data.tags
    assert tags["saved.history"] == tags["loaded.history"] == "2026-01-01T00.00.00.000Z"


@pytest.mark.parametrize(("private", "said"), [(False, "ValueError: no such column"), (True, "ValueError")])
def test_a_failed_run_ends_failed_with_its_error_and_private_texts_are_not_in_it(tmp_path, private, said):
    run = Run(tmp_path, private=private)
    run.start()
    run.hook.on_pipeline_error(ValueError("no such column"))
    logged = only_run(tmp_path)[1]
    assert logged.info.status == "FAILED"
    assert logged.data.tags["error"] == said


def test_nothing_is_sent_before_the_first_node_has_ended(tmp_path):
    run = Run(tmp_path)
    run.start()
    assert not (tmp_path / "mlflow.db").exists()


def test_one_setting_turns_it_off(tmp_path):
    run = Run(tmp_path, settings={"enabled": False})
    run.start()
    run.work()
    run.hook.after_pipeline_run()
    assert not (tmp_path / "mlflow.db").exists()


def test_an_unknown_setting_or_wish_fails_before_the_work(tmp_path):
    with pytest.raises(TrackingError, match=r"unknown setting 'experimnt' in mlflow\.yml; choose from enabled, experiment, tracking_uri"):
        Run(tmp_path, settings={"experimnt": "x"})
    with pytest.raises(TrackingError, match=r"unknown headline 'x' in metadata\.mlflow of catalog entry 'history'; choose from verdict"):
        Run(tmp_path, wishes={"headline": "x"}).start()
    with pytest.raises(
        TrackingError,
        match=r"unknown key 'metric' in metadata\.mlflow of catalog entry 'history'; choose from artifact, headline, html, metrics",
    ):
        Run(tmp_path, wishes={"metric": {}}).start()


def test_a_server_that_is_down_costs_nothing_and_the_log_can_be_sent_later(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run = Run(tmp_path)
    with caplog.at_level(logging.WARNING):
        run.start()
        run.work()
        run.hook.after_pipeline_run()
    assert (tmp_path / "history.csv").exists()
    (pending,) = (tmp_path / "mlflow_pending").iterdir()
    assert "The run continues" in caplog.text
    assert f"python -m embedding_adaptation.tracking {pending}" in caplog.text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    send_pending(pending)
    logged = only_run(tmp_path)[1]
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["history.loss"] == 1.5
    assert not pending.exists()


class ModelRun(Run):
    """A pretended run that exports a model beside its table."""

    def __init__(self, project: Path, exported: Path, **settings) -> None:
        super().__init__(project, settings=settings)
        self.catalog["adapted_embedder"] = ExportedEmbedderDataset(filepath=str(exported), metadata={"mlflow": {"model": True}})

    def work(self) -> None:
        self.hook.after_dataset_saved("adapted_embedder", None)
        super().work()


def test_of_a_run_that_a_store_has_the_beginning_of_the_rest_is_sent_later(tmp_path, monkeypatch):
    from embedding_adaptation.tracking import MlflowSender

    run = Run(tmp_path)
    run.start()
    run.hook.after_node_run(PIPELINE.nodes[0])

    def refuse(self, event):
        raise ConnectionError("the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowSender, "send", refuse)
        run.work()
        run.hook.after_pipeline_run()
    assert only_run(tmp_path)[1].info.status == "RUNNING"
    (pending,) = (tmp_path / "mlflow_pending").iterdir()
    send_pending(pending)
    client, logged = only_run(tmp_path)
    assert logged.info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(logged.info.run_id, "history.loss")] == [(0, 2.0), (1, 1.5)]


def test_a_log_that_cannot_be_kept_does_not_cost_the_run(tmp_path, caplog):
    (tmp_path / "mlflow_pending").write_text("a file is in the way")
    run = Run(tmp_path, settings={"tracking_uri": "http://127.0.0.1:9"})
    run.start()
    run.work()
    run.hook.after_pipeline_run()
    assert "could not be kept in a file either" in caplog.text


def test_an_exported_model_is_registered_by_the_run_that_made_it(tmp_path, exported):
    run = ModelRun(tmp_path, exported, registry={"name": "mine"})
    run.start()
    run.work()
    run.hook.after_pipeline_run()
    client, logged = only_run(tmp_path)
    version = client.get_model_version_by_alias("mine", "candidate")
    assert version.run_id == logged.info.run_id
    assert version.tags["kedro.version"] == "2026-01-01T00.00.00.000Z"
    assert version.tags["git.commit"] == "unknown"
    assert not (tmp_path / "mlflow_pending").exists()


def test_registering_can_be_turned_off(tmp_path, exported):
    run = ModelRun(tmp_path, exported, registry={"enabled": False})
    run.start()
    run.work()
    run.hook.after_pipeline_run()
    client, logged = only_run(tmp_path)
    assert logged.data.metrics["history.loss"] == 1.5
    assert client.search_registered_models() == []


def test_a_store_that_takes_no_models_gets_the_rest_of_the_run_and_the_model_later(tmp_path, exported, caplog):
    facts = exported / "model_facts.json"
    facts.rename(tmp_path / "away.json")
    run = ModelRun(tmp_path, exported, registry={"name": "mine"})
    with caplog.at_level(logging.WARNING):
        run.start()
        run.work()
        run.hook.after_pipeline_run()
    client, logged = only_run(tmp_path)
    assert (logged.info.status, logged.data.metrics["history.loss"]) == ("FINISHED", 1.5)
    (pending,) = (tmp_path / "mlflow_pending").iterdir()
    assert "does not accept the model" in caplog.text
    assert f"python -m embedding_adaptation.tracking {pending}" in caplog.text
    (tmp_path / "away.json").rename(facts)
    send_pending(pending)
    assert client.get_model_version_by_alias("mine", "champion").run_id == logged.info.run_id
    assert only_run(tmp_path)[1].info.run_id == logged.info.run_id
    assert not pending.exists()


def test_a_model_of_a_server_that_is_down_waits_with_the_rest_of_its_run(tmp_path, exported, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run = ModelRun(tmp_path, exported, registry={"name": "mine"})
    run.start()
    run.work()
    run.hook.after_pipeline_run()
    (pending,) = (tmp_path / "mlflow_pending").iterdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    send_pending(pending)
    client, logged = only_run(tmp_path)
    assert client.get_model_version_by_alias("mine", "champion").run_id == logged.info.run_id


def test_a_wrong_setting_of_the_registry_fails_before_the_work(tmp_path):
    with pytest.raises(TrackingError, match=r"registry\.nam in mlflow\.yml: Extra inputs are not permitted; see conf/base/mlflow\.yml"):
        Run(tmp_path, settings={"registry": {"nam": "x"}})


def test_a_file_that_is_no_pending_log_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"kind": "start"}) + "\n")
    with pytest.raises(TrackingError, match="is not a pending MLflow log"):
        send_pending(tmp_path / "x.jsonl")


def test_long_values_are_cut_visibly_and_names_are_cleaned():
    flat = dict(flatten_parameters({"a": {"b {x}": "y" * 900, "empty": {}, "list": [1, 2]}}))
    assert flat["a.b _x_"].endswith("... (cut)")
    assert len(flat["a.b _x_"]) == 500
    assert flat["a.empty"] == "{}"
    assert flat["a.list"] == "[1, 2]"


def test_a_table_by_row_and_a_mapping_become_metrics_without_missing_values():
    table = pd.DataFrame({"strategy": ["bare/mean", "x"], "ami": [0.1, math.nan], "words": ["a", "b"]})
    assert dataset_metrics("scores", table, {"by": "strategy"}) == [{"step": 0, "values": {"scores.bare/mean.ami": 0.1}}]
    table = table.assign(task="t")
    assert dataset_metrics("scores", table, {"by": ["task", "strategy"]}) == [{"step": 0, "values": {"scores.t.bare/mean.ami": 0.1}}]
    assert dataset_metrics("report", {"a": {"b": 2, "yes": True}, "c": "x"}, {}) == [{"step": 0, "values": {"report.a.b": 2.0}}]


def test_the_store_is_chosen_by_variable_then_setting_then_project(tmp_path, monkeypatch):
    assert tracking_uri(tmp_path, None) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert tracking_uri(tmp_path, "http://a") == "http://a"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://b")
    assert tracking_uri(tmp_path, "http://a") == "http://b"


def test_threads_that_end_their_nodes_at_once_share_one_run(tmp_path):
    run = Run(tmp_path)
    run.start()
    start = threading.Barrier(4)

    def end_a_node() -> None:
        start.wait()
        run.hook.after_node_run(PIPELINE.nodes[0])

    threads = [threading.Thread(target=end_a_node) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.work()
    run.hook.after_pipeline_run()
    logged = only_run(tmp_path)[1]
    assert (logged.info.status, logged.data.metrics["history.loss"]) == ("FINISHED", 1.5)


VERSION = "2026-01-01T00.00.00.000Z"


def parallel(tmp_path: Path) -> Run:
    """A run whose catalog is the one of Kedro's ParallelRunner, with versions."""
    run = Run(tmp_path)
    wish = {"mlflow": {"metrics": {"step": "step"}, "artifact": True}}
    run.catalog = SharedMemoryDataCatalog(
        {
            "params:training": MemoryDataset(Typed()),
            "history": CSVDataset(
                filepath=str(tmp_path / "history.csv"), version=Version(None, VERSION), metadata=wish, save_args={"index": False}
            ),
            "counts": JSONDataset(
                filepath=str(tmp_path / "counts.json"), version=Version(None, VERSION), metadata={"mlflow": {"metrics": {}}}
            ),
        }
    )
    return run


def save_in_another_process(run: Run) -> None:
    """What a forked worker does: it saves, and calls the hooks on its copy of them."""

    def node() -> None:
        run.catalog.save("history", make_history(None)[0])
        run.hook.after_dataset_saved("history", make_history(None)[0])
        run.hook.after_node_run(PIPELINE.nodes[0])
        run.hook.after_pipeline_run()

    process = multiprocessing.get_context("fork").Process(target=node)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_what_other_processes_have_saved_is_logged_by_the_first_one_at_the_end(tmp_path):
    run = parallel(tmp_path)
    run.start()
    save_in_another_process(run)
    assert not (tmp_path / "mlflow.db").exists()
    run.hook.after_pipeline_run()
    client, logged = only_run(tmp_path)
    assert logged.info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(logged.info.run_id, "history.loss")] == [(0, 2.0), (1, 1.5)]
    assert logged.data.tags["saved.history"] == VERSION
    assert [item.path for item in client.list_artifacts(logged.info.run_id, "history")] == ["history/history.csv"]
    assert "saved.counts" not in logged.data.tags  # the worker made none


def test_what_an_earlier_run_has_saved_is_not_logged_as_of_this_one(tmp_path):
    earlier = JSONDataset(filepath=str(tmp_path / "counts.json"), version=Version(None, "2025-01-01T00.00.00.000Z"))
    earlier.save({"kept": {"texts": 99}})
    run = parallel(tmp_path)
    run.start()
    save_in_another_process(run)
    run.hook.on_pipeline_error(ValueError("a later node failed"))
    logged = only_run(tmp_path)[1]
    assert logged.info.status == "FAILED"
    assert "history.loss" in logged.data.metrics
    assert not any(name.startswith("counts") for name in logged.data.metrics)


def test_a_run_that_was_left_open_in_a_notebook_ends_with_the_next_one(tmp_path):
    run = Run(tmp_path)
    run.start()
    run.work()
    run.start()  # the cell before was interrupted
    run.work()
    run.hook.after_pipeline_run()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("embedding-adaptation").experiment_id], order_by=["start_time"])
    assert [found.info.status for found in runs] == ["KILLED", "FINISHED"]


PROGRAM = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tracking import Run
run = Run(Path(sys.argv[1]))
run.start()
run.work()
print("at work", flush=True)
sys.stdin.readline()
raise KeyboardInterrupt
"""


def statuses(project: Path) -> list[str]:
    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("embedding-adaptation").experiment_id])
    return sorted(run.info.status for run in runs)


@pytest.mark.slow
def test_a_run_whose_process_was_killed_ends_with_the_next_one_and_one_that_is_at_work_does_not(tmp_path):
    killed, busy = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in (killed, busy):
        assert process.stdout.readline() == "at work\n"
    killed.kill()
    killed.communicate()
    assert statuses(tmp_path) == ["RUNNING", "RUNNING"]
    run = Run(tmp_path)
    run.start()
    run.work()
    run.hook.after_pipeline_run()
    assert statuses(tmp_path) == ["FINISHED", "KILLED", "RUNNING"]
    busy.communicate("go\n")
    assert statuses(tmp_path) == ["FINISHED", "KILLED", "KILLED"]  # interrupted, it says so itself


def test_a_pending_file_that_cannot_be_sent_is_told_in_a_line_and_the_next_is_tried(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run = Run(tmp_path)
    run.start()
    run.work()
    run.hook.after_pipeline_run()
    (pending,) = (tmp_path / "mlflow_pending").iterdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert main([str(tmp_path / "none.jsonl"), str(pending)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert "none.jsonl is kept: FileNotFoundError" in line
    assert only_run(tmp_path)[1].info.status == "FINISHED"
    assert main([]) == 0
