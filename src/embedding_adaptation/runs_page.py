"""``make mlflow``: start MLflow's pages on the project's store and open the table of runs with its headline columns.

MLflow would open on a page about traces and prompts: the kind of page is chosen by ``workflowType`` in the address, else by what the
browser remembers. Its table shows none of a run's numbers until somebody picks them; a shared view, kept as a tag of the experiment, does.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from kedro.utils import find_kedro_project
from mlflow import MlflowClient

from embedding_adaptation.settings import CONFIG_LOADER_ARGS, CONFIG_LOADER_CLASS
from embedding_adaptation.tracking import TrackingError, tracking_settings, tracking_uri
from embedding_adaptation.tracking_tags import EXPERIMENT_KIND, EXPORTED, MODEL_DEVELOPMENT, SHARED_VIEW, VERDICT

if TYPE_CHECKING:
    from collections.abc import Sequence

_VIEW = "headlines"
# The verdict is there in words, as a tag.
_SCORES = ("best_score", "exported_score", "gain", "gain_low", "gain_high")
_COLUMNS = (*(f"metrics.`{name}`" for name in _SCORES), *(f"tags.`{name}`" for name in (VERDICT, EXPORTED)))
# Processes for evaluations of traces, which the project does not have.
_JOBS = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
_PATIENCE_SECONDS = 120


def runs_address(server: str, experiment_id: str) -> str:
    """The address of the table of runs, with the headline columns, the newest run first.

    Args:
        server: Address of MLflow's server, such as ``http://127.0.0.1:5000``.
        experiment_id: The project's experiment.
    """
    query = {"workflowType": "machine_learning", "viewStateShareKey": _VIEW, "compareRunsMode": "TABLE"}
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(query)}"


def share_view(client: MlflowClient, experiment_id: str) -> None:
    """Keep the view of the runs as a tag of the experiment, where MLflow's pages look for shared views, and make it the kind it is."""
    client.set_experiment_tag(experiment_id, f"{SHARED_VIEW}{_VIEW}", json.dumps(_view()))
    if EXPERIMENT_KIND not in client.get_experiment(experiment_id).tags:
        client.set_experiment_tag(experiment_id, EXPERIMENT_KIND, MODEL_DEVELOPMENT)


def _view() -> dict[str, Any]:
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": ["attributes.`Created`", "attributes.`Duration`", *_COLUMNS],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "FIRST_10_RUNS",
        "compareRunCharts": None,
        "viewMaximized": True,
        "runListHidden": False,
        "groupBy": None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the pages and open them; ends with Ctrl-C.

    Store and experiment are those of ``mlflow.yml``. The exit code is 1 if no run has been tracked there yet.
    """
    parser = argparse.ArgumentParser(prog="make mlflow", description="Open the tracked runs in the browser.")
    parser.add_argument("--experiment", help="name of the experiment; that of mlflow.yml otherwise")
    parser.add_argument("--env", default=os.environ.get("KEDRO_ENV"), help="Kedro's configuration environment")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--port", type=int, default=5000, help="the port to listen at")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    given = parser.parse_args(arguments)
    project = Path(find_kedro_project(Path.cwd()) or Path.cwd())
    try:
        settings = _settings(project, given.env)
    except TrackingError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    uri, name = tracking_uri(project, settings["tracking_uri"]), given.experiment or settings["experiment"]
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        sys.stderr.write(f"Error: no run is tracked yet: {uri.removeprefix('sqlite:///')} does not exist; run 'kedro run' first\n")
        return 1
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        names = ", ".join(sorted(found.name for found in client.search_experiments()))
        way_out = f"choose with ARGS='--experiment NAME' from {names}"
        sys.stderr.write(f"Error: there is no experiment {name!r} at {uri}; {way_out}\n")
        return 1
    share_view(client, experiment.experiment_id)
    if uri.startswith("http"):
        _show(runs_address(uri, experiment.experiment_id), browser=not given.no_browser)
        return 0
    server = f"http://{given.host}:{given.port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", given.host, "--port", str(given.port)]
    command += ["--workers", "1"]  # one person looks
    process = subprocess.Popen(command, env={_JOBS: "false", **os.environ, "MLFLOW_TRACKING_URI": uri})  # noqa: S603  our own interpreter
    address = runs_address(server, experiment.experiment_id)
    waiting = threading.Thread(target=_show_when_up, args=(process, server, address), kwargs={"browser": not given.no_browser}, daemon=True)
    waiting.start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        process.wait()


def _settings(project: Path, env: str | None) -> dict[str, Any]:
    """The settings of ``mlflow.yml``, or the defaults where there is no configuration.

    Raises:
        TrackingError: If there is an unknown one, or no such environment.
    """
    source = project / "conf"
    if not source.is_dir():
        return tracking_settings({})
    chosen = env or CONFIG_LOADER_ARGS["default_run_env"]
    if not (source / str(chosen)).is_dir():
        msg = f"unknown environment {chosen!r} in {source}; choose another with --env or KEDRO_ENV, or make the folder"
        raise TrackingError(msg)
    return tracking_settings(CONFIG_LOADER_CLASS(str(source), env=env, **CONFIG_LOADER_ARGS)["mlflow"])


def _show_when_up(process: subprocess.Popen[bytes], server: str, address: str, *, browser: bool) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{server}/health", timeout=2):  # noqa: S310  our own server
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    else:
        return
    _show(address, browser=browser)


def _show(address: str, *, browser: bool) -> None:
    sys.stdout.write(f"Runs: {address}\n")
    sys.stdout.flush()
    if browser:
        webbrowser.open(address)


if __name__ == "__main__":
    sys.exit(main())
