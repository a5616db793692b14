"""MLflow tracking: a run's parameters, metrics, files and dataset versions, logged because the catalog says so.

A catalog entry asks for it in its metadata:

.. code-block:: yaml

    training_history:
      type: pandas.CSVDataset
      metadata:
        mlflow:
          metrics: {step: step}      # a table: one metric per numeric column, at the step of each row
          # metrics: {by: strategy}  # a table: one metric per numeric column and row, named after the row; or a list of columns
          # metrics: {}              # a mapping: one metric per number in it
          artifact: true             # the saved file or folder itself
          # model: true              # an exported model: logged as an MLflow model and registered
          # html: true               # a Plotly figure: also as a page that needs no network
          # headline: verdict        # a report of this kind (see headlines.KINDS): the few metrics and tags that sum up a run
          # texts: {context: training, source: corpus}  # a report about texts: they become an MLflow dataset with a digest

Nothing is sent before the first node has ended, so importing MLflow does not delay the work. If the store cannot be reached, the run
continues, and everything it would have logged is written to ``mlflow_pending/``, to be sent later with
``python -m embedding_adaptation.tracking FILE``.

A command is one MLflow run, whatever runs its nodes. Several threads share its log. With several processes (Kedro's ``ParallelRunner``)
only the first one logs: what the others saved is read after they have ended, so metrics arrive at the end.

A run ends as FINISHED, FAILED or, if interrupted, KILLED. If its process was killed, the next run of the same experiment on that machine
marks it as KILLED.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import logging
import os
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io.core import DatasetError, VersionNotFoundError
from kedro.io.data_catalog import SharedMemoryDataCatalog
from pydantic import ValidationError

from embedding_adaptation import tracking_tags as tags
from embedding_adaptation.atomic import replacing_file, scratch_prefix
from embedding_adaptation.datasets.versioned import KeptVersion
from embedding_adaptation.errors import sentence
from embedding_adaptation.headlines import KINDS, Headlines, used_texts
from embedding_adaptation.interruption import held_signals
from embedding_adaptation.model_registry import RegistryOptions, log_and_register
from embedding_adaptation.process_identity import has_ended, this_process

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    import pandas as pd
    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

logger = logging.getLogger(__name__)

PENDING_FOLDER = "mlflow_pending"
_KEYS = {"metrics", "artifact", "model", "headline", "texts", "html"}
_MAX_PARAM_CHARACTERS = 500
_CUT = " ... (cut)"
_ERROR_CHARACTERS = 4000
_PARAMS_AT_ONCE = 100  # MLflow's limit for one call
_TAGS_AT_ONCE = 100  # likewise
_BATCHED = {"params", "tags", "metrics"}
_METRICS_AT_ONCE = 500
_DIGEST_CHARACTERS = 36  # MLflow's limit
_SQLITE = "sqlite:///"
_LOCK_SECONDS = 120
# A server that is down should cost seconds: MLflow's defaults (7 tries of 120 s) would hold up a finished run for minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class TrackingError(ValueError):
    """An unusable tracking setting; the message names it and says what to change."""


Event = dict[str, Any]


@dataclass(eq=False)
class MlflowTracking:
    """The Kedro hook, configured in ``conf/<env>/mlflow.yml``: ``enabled``, ``experiment``, ``tracking_uri``, ``registry``."""

    _log: RunLog | None = None
    _settings: dict[str, Any] = field(default_factory=dict)
    _project: Path = Path()
    _environment: str = ""
    _private: bool = False
    _catalog: DataCatalog | None = None
    _pipeline: Pipeline | None = None
    _registry: RegistryOptions = field(default_factory=RegistryOptions)
    _tags: dict[str, str] = field(default_factory=dict)
    _headlines: Headlines = field(default_factory=Headlines)
    _texts: set[tuple[str, str]] = field(default_factory=set)
    _pid: int = 0

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read the settings."""
        self._settings = tracking_settings(context.config_loader["mlflow"])
        try:
            self._registry = RegistryOptions.model_validate(self._settings["registry"])
        except ValidationError as error:
            problem = error.errors()[0]
            msg = f"registry.{'.'.join(map(str, problem['loc']))} in mlflow.yml: {problem['msg']}; see conf/base/mlflow.yml"
            raise TrackingError(msg) from error
        self._project = Path(context.project_path)
        self._environment = str(context.env or "local")
        self._private = bool(context.config_loader["globals"].get("private"))

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Open the run's log without sending anything yet."""
        self.end("KILLED", "interrupted")  # an earlier run in a notebook: Kedro does not tell hooks about an interruption
        if not self._settings.get("enabled"):
            return
        self._catalog, self._pipeline, self._pid = catalog, pipeline, os.getpid()
        for name in pipeline.datasets():
            _logging_settings(name, catalog)  # a wrong setting fails now, not after the work
        names = run_params.get("pipeline_names") or ["__default__"]
        version = str(run_params.get("run_id") or run_params.get("session_id"))
        uri = tracking_uri(self._project, self._settings["tracking_uri"])
        self._log = RunLog(uri, self._settings["experiment"], self._project, version)
        atexit.unregister(self._end_at_exit)
        atexit.register(self._end_at_exit)
        self._tags = {tags.VERSION: version, **tags.git_tags(self._project)}
        self._headlines, self._texts = Headlines(), set()
        self._log.record(
            kind="start",
            name=", ".join("end_to_end" if name == "__default__" else name for name in names),
            tags={
                tags.COMMAND: " ".join(["kedro", *sys.argv[1:]]),
                tags.ENVIRONMENT: self._environment,
                tags.PIPELINES: ", ".join(names),
                tags.PROCESS: this_process(),
                **self._tags,
            },
        )
        values = {name.removeprefix("params:"): catalog.load(name) for name in pipeline.inputs() if name.startswith("params:")}
        self._log.record(kind="params", values=dict(flatten_parameters(values)))
        if run_params.get("runtime_params"):
            self._log.record(kind="params", values=dict(flatten_parameters({"command_line": run_params["runtime_params"]})))

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str, data: Any) -> None:
        """Record the version that was loaded, and the texts that a report is about."""
        self._record_version("loaded", dataset_name)
        if self._is_ours:
            self._log_texts(dataset_name, data)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Record the version that was saved, and log what the catalog asks for."""
        self._record_version("saved", dataset_name)
        if self._is_ours:
            self._log_dataset(dataset_name, None if isinstance(data, KeptVersion) else data)

    @hook_impl
    def after_node_run(self, node: Node) -> None:  # noqa: ARG002
        """Send the events recorded so far."""
        if self._log is not None and self._is_ours:
            self._log.flush()

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Close the run."""
        self._log_of_other_processes()
        self.end("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Close the run as failed, with the error; of private texts, which its message may quote, only with its type."""
        self._log_of_other_processes()
        self.end("FAILED", type(error).__name__ if self._private else f"{type(error).__name__}: {error}")

    def end(self, status: str, error: str = "") -> None:
        """Close the run, if one is open.

        Args:
            status: FINISHED, FAILED or KILLED.
            error: Why it did not finish.
        """
        if self._log is not None and self._is_ours:
            log, self._log = self._log, None
            log.record(kind="end", status=status, tags={tags.ERROR: error[:_ERROR_CHARACTERS]} if error else {})
            if status == "KILLED" and not log.is_started:
                log.keep()  # whoever sent the signal may not wait for MLflow's import
            log.flush()

    @property
    def _is_ours(self) -> bool:
        """Whether this process opened the log; a process forked for a node has a copy of it."""
        return self._log is not None and self._pid == os.getpid()

    def _end_at_exit(self) -> None:
        """Close a run that an interruption left open in a program that does not use the command line."""
        if self._log is not None and self._log.is_started:
            self.end("KILLED", "interrupted")

    def _log_dataset(self, dataset_name: str, data: Any) -> None:
        """Log what the catalog asks for of a dataset.

        Args:
            dataset_name: Name in the catalog.
            data: What was saved; ``None`` loads it if its numbers are needed.
        """
        if self._log is None or self._catalog is None:
            return
        settings = _logging_settings(dataset_name, self._catalog)
        needs_data = settings.get("metrics") is not None or settings.get("headline") or settings.get("texts")
        saved = self._catalog.load(dataset_name) if data is None and needs_data else data
        if settings.get("headline"):
            values, said = self._headlines.of(settings["headline"], saved)
            self._log.record(kind="metrics", step=0, values=values)
            self._log.record(kind="tags", values=said)
        self._log_texts(dataset_name, saved)
        if settings.get("metrics") is not None:
            for metrics in dataset_metrics(dataset_name, saved, settings["metrics"]):
                self._log.record(kind="metrics", **metrics)
        if settings.get("artifact"):
            self._log.record(kind="artifact", dataset=dataset_name, path=_saved_path(self._catalog.get(dataset_name)))
        if settings.get("html"):
            self._log.record(kind="html", dataset=dataset_name, path=_saved_path(self._catalog.get(dataset_name)))
        if settings.get("model") and self._registry.enabled:
            path = _saved_path(self._catalog.get(dataset_name))
            self._log.record(kind="model", dataset=dataset_name, path=path, registry=self._registry.model_dump(), tags=self._tags)

    def _log_texts(self, dataset_name: str, report: Any) -> None:
        """Log the texts that a report is about, by name and digest, if its entry asks for it and they are not logged yet."""
        if self._log is None or self._catalog is None:
            return
        wish = _logging_settings(dataset_name, self._catalog).get("texts")
        used = used_texts(report) if wish else None
        if wish is None or used is None or (used["digest"], wish["context"]) in self._texts:
            return
        self._texts.add((used["digest"], wish["context"]))
        source = getattr(self._catalog.get(wish["source"]), "_path", None)
        same_file = source is not None and Path(source).name == used["name"]
        self._log.record(kind="texts", context=wish["context"], source=str(source) if same_file else used["name"], **used)

    def _log_of_other_processes(self) -> None:
        """Log what nodes in other processes loaded and saved, of which the hooks of this process hear nothing."""
        if not self._is_ours or self._pipeline is None or not isinstance(self._catalog, SharedMemoryDataCatalog):
            return
        outputs = self._pipeline.all_outputs()
        for name in sorted(self._pipeline.datasets()):
            dataset = self._catalog.get(name)
            if name not in outputs:
                self._record_version("loaded", name)
                if _logging_settings(name, self._catalog).get("texts"):
                    self._log_texts(name, self._catalog.load(name))
            elif _is_saved_by_this_run(dataset):
                self._record_version("saved", name)
                try:
                    self._log_dataset(name, None)
                except DatasetError as error:
                    logger.warning("MLflow gets no metrics for %s, which cannot be read back: %s", name, sentence(error))

    def _record_version(self, action: str, dataset_name: str) -> None:
        if self._log is None or self._catalog is None or not self._is_ours:
            return
        dataset = self._catalog.get(dataset_name)
        resolve = getattr(dataset, "resolve_load_version" if action == "loaded" else "resolve_save_version", None)
        try:
            version = resolve() if resolve else None
        except VersionNotFoundError:
            version = None  # an optional input that does not exist
        if version:
            self._log.record(kind="tags", values=tags.dataset_version(action, dataset_name, str(version)))


def end_open_runs(status: str, error: str) -> None:
    """Close the run that the project's tracking has open, if any; see :meth:`MlflowTracking.end`."""
    from kedro.framework.project import settings

    for hook in settings.HOOKS:
        if isinstance(hook, MlflowTracking):
            hook.end(status, error)


class RunLog:
    """The log of one run: a list of events that several threads can add to and send, now or later.

    Args:
        uri: MLflow tracking URI.
        experiment: Name of the experiment.
        project: Root of the project, below which a local store's artefacts and pending logs are kept.
        version: Kedro's version of this run, which names a pending log.
    """

    def __init__(self, uri: str, experiment: str, project: Path, version: str) -> None:
        self.uri = uri
        self.experiment = experiment
        self.project = project
        self.pending = project / PENDING_FOLDER / f"{version.replace(':', '.')}.jsonl"
        self._events: list[Event] = []
        self._sent = 0
        self._sender: MlflowSender | None = None
        self._reachable = True
        self._unregistered: list[Event] = []
        self._lock = threading.RLock()

    @property
    def is_started(self) -> bool:
        """Whether sending has been attempted."""
        return self._sent > 0 or not self._reachable

    def record(self, **event: Any) -> None:
        """Add an event; it is sent with the next flush."""
        self._events.append({"time": int(time.time() * 1000), **event})

    def flush(self) -> None:
        """Send new events; if the store rejects them, keep everything in a file and continue."""
        # An interruption between a call and the record that it was made would start the run twice.
        with self._lock, held_signals():
            self._flush()

    def keep(self) -> None:
        """Write everything to the file of pending events, which is removed once the store has accepted them."""
        self._keep(self.pending, self._events)

    def _flush(self) -> None:
        if self._reachable:
            try:
                if self._sender is None:
                    self._sender = MlflowSender(self.uri, self.experiment, self.project)
                while self._sent < len(self._events):
                    batch = list(itertools.takewhile(lambda event: event["kind"] in _BATCHED, self._events[self._sent :]))
                    if batch:
                        self._sender.send_batch(batch)
                    else:
                        self._send(self._sender, self._events[self._sent])
                    self._sent += len(batch) or 1
                self.pending.unlink(missing_ok=True)
            except Exception as error:  # noqa: BLE001  whatever goes wrong in tracking, the computation must not be lost
                self._reachable = False
                logger.warning(
                    "MLflow at %s does not accept this run (%s: %s). The run continues; its log is kept in %s. "
                    "Send it later with: python -m embedding_adaptation.tracking %s",
                    self.uri, type(error).__name__, _first_line(error), self.pending, self.pending,
                )  # fmt: skip
        if not self._reachable:
            # If the store has accepted the first events of a run, only the rest is sent later.
            begun = self._sender.run_id if self._sender is not None else ""
            self._keep(self.pending, self._events, begun_run=begun, sent=self._sent if begun else 0)
            with contextlib.suppress(OSError):
                self._pending_model.unlink(missing_ok=True)  # its events are in the other file, too

    @property
    def _pending_model(self) -> Path:
        return self.pending.with_name(f"{self.pending.stem}-model.jsonl")

    def _send(self, sender: MlflowSender, event: Event) -> None:
        try:
            sender.send(event)
        except Exception as error:
            if event["kind"] != "model":
                raise
            # A store may accept runs but not models: without a registry, or with a size limit. That must not affect the run's log.
            self._unregistered.append(event)
            self._keep(self._pending_model, self._unregistered, run_id=sender.run_id)
            logger.warning(
                "MLflow at %s does not accept the model %s (%s: %s). It is kept in %s; the run continues. Register it later with: "
                "python -m embedding_adaptation.tracking %s",
                self.uri, event["path"], type(error).__name__, _first_line(error), self._pending_model, self._pending_model,
            )  # fmt: skip

    def _keep(self, file: Path, events: list[Event], **more: str | int) -> None:
        header = {"kind": "store", "uri": self.uri, "experiment": self.experiment, "project": str(self.project), **more}
        lines = [json.dumps(event, ensure_ascii=False) for event in [header, *events]]
        try:
            with replacing_file(file) as work:
                work.write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError as error:  # the results of the run are worth more than its log
            logger.warning("the log of this run could not be kept in a file either: %s", error)


class MlflowSender:
    """Turns events into MLflow calls.

    Args:
        uri: MLflow tracking URI.
        experiment: Name of the experiment; created if it does not exist.
        project: Root of the project, where a local store keeps its files.
        run_id: A run to continue; if empty, the first event must start one.
    """

    def __init__(self, uri: str, experiment: str, project: Path, run_id: str = "") -> None:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        with _only_one_at_a_time(uri):
            self._client = MlflowClient(tracking_uri=uri)
            existing = self._client.get_experiment_by_name(experiment)
            if existing is None:
                # A database store would keep files in the current directory by default.
                location = (project / "mlartifacts").as_uri() if uri.startswith(_SQLITE) else None
                self._experiment_id = self._client.create_experiment(experiment, artifact_location=location)
            else:
                self._experiment_id = existing.experiment_id
            if existing is None or tags.EXPERIMENT_KIND not in existing.tags:
                self._client.set_experiment_tag(self._experiment_id, tags.EXPERIMENT_KIND, tags.MODEL_DEVELOPMENT)
        self.run_id = run_id

    def has_run(self) -> bool:
        """Whether the store has the run to continue."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(self.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def send(self, event: Event) -> None:
        """Send one event."""
        client, run_id = self._client, self.run_id
        match event["kind"]:
            case "start":
                run = client.create_run(self._experiment_id, start_time=event["time"], run_name=event["name"], tags=event["tags"])
                self.run_id = run.info.run_id
                self._end_abandoned_runs()
            case "params" | "tags" | "metrics":
                self.send_batch([event])
            case "artifact":
                path = Path(event["path"])
                log = client.log_artifacts if path.is_dir() else client.log_artifact
                log(run_id, str(path), event["dataset"])
            case "html":
                self._log_figure(Path(event["path"]), event["dataset"])
            case "texts":
                self._log_texts(event)
            case "model":
                options = RegistryOptions.model_validate(event["registry"])
                log_and_register(client, self._experiment_id, run_id, Path(event["path"]), event["dataset"], options, event["tags"])
            case "end":
                for name, value in event["tags"].items():
                    client.set_tag(run_id, name, value)
                client.set_terminated(run_id, status=event["status"], end_time=event["time"])

    def send_batch(self, events: Iterable[Event]) -> None:
        """Send parameters, tags and metrics in as few calls as MLflow allows: each is a transaction of its own."""
        from mlflow.entities import Metric, Param, RunTag

        params: dict[str, str] = {}
        run_tags: dict[str, str] = {}
        metrics: list[Metric] = []
        for event in events:
            if event["kind"] == "params":
                params |= event["values"]
            elif event["kind"] == "tags":
                run_tags |= event["values"]
            else:
                metrics += [Metric(name, value, event["time"], event["step"]) for name, value in event["values"].items()]
        while params or run_tags or metrics:
            self._client.log_batch(
                self.run_id,
                metrics=metrics[:_METRICS_AT_ONCE],
                params=[Param(name, str(params.pop(name))) for name in list(params)[:_PARAMS_AT_ONCE]],
                tags=[RunTag(name, str(run_tags.pop(name))) for name in list(run_tags)[:_TAGS_AT_ONCE]],
            )
            metrics = metrics[_METRICS_AT_ONCE:]

    def _log_texts(self, event: Event) -> None:
        """Log texts as an MLflow dataset: name, digest, source and size, never a text."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source, profile = json.dumps({"uri": event["source"]}), json.dumps(event["profile"])
        dataset = Dataset(event["name"], event["digest"][:_DIGEST_CHARACTERS], "local", source, profile=profile)
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag(tags.DATASET_CONTEXT, event["context"])])])

    def _log_figure(self, file: Path, dataset: str) -> None:
        """Log a saved Plotly figure as a page that needs no network."""
        import plotly.io

        figure = plotly.io.from_json(file.read_text(encoding="utf-8"), skip_invalid=True)
        with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as scratch:
            page = Path(scratch) / f"{dataset}.html"
            figure.write_html(page, include_plotlyjs=True, include_mathjax=False)
            self._client.log_artifact(self.run_id, str(page), dataset)

    def _end_abandoned_runs(self) -> None:
        """Mark runs as KILLED whose process has certainly ended without closing them: after ``kill -9`` or a crash of the machine."""
        try:
            for run in self._client.search_runs([self._experiment_id], filter_string="attributes.status = 'RUNNING'"):
                if has_ended(run.data.tags.get(tags.PROCESS, "")):
                    self._client.set_tag(run.info.run_id, tags.ERROR, "the process was killed or the machine went down")
                    self._client.set_terminated(run.info.run_id, status="KILLED")
        except Exception as error:  # noqa: BLE001  a failure here must not affect the current run
            logger.debug("abandoned MLflow runs could not be marked as KILLED: %s", error)


def _only_one_at_a_time(uri: str) -> AbstractContextManager[object]:
    """A lock between processes for a database that may not exist yet: two processes creating it at once break its migrations."""
    if not uri.startswith(_SQLITE):
        return nullcontext()
    from filelock import FileLock

    return FileLock(f"{uri.removeprefix(_SQLITE)}.lock", timeout=_LOCK_SECONDS)


def send_pending(file: Path) -> None:
    """Send what a pending file holds (a whole run, the rest of a partly sent one, or a model), then remove the file.

    Raises:
        TrackingError: If the file is not a pending log.
    """
    events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if not events or events[0].get("kind") != "store":
        msg = f"{file} is not a pending MLflow log; give a file from {PENDING_FOLDER}/"
        raise TrackingError(msg)
    store, *rest = events
    begun = store.get("begun_run", "")
    sender = MlflowSender(
        os.environ.get("MLFLOW_TRACKING_URI") or store["uri"], store["experiment"], Path(store["project"]), store.get("run_id", "") or begun
    )
    if begun and sender.has_run():
        rest = rest[store["sent"] :]
    for event in rest:
        sender.send(event)
    file.unlink()


def tracking_settings(configured: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``mlflow.yml``, with defaults for those it does not name.

    Raises:
        TrackingError: If it names another.
    """
    settings: dict[str, Any] = {"enabled": True, "experiment": "embedding-adaptation", "tracking_uri": None, "registry": {}}
    unknown = set(configured) - set(settings)
    if unknown:
        msg = f"unknown setting {sorted(unknown)[0]!r} in mlflow.yml; choose from {', '.join(settings)}"
        raise TrackingError(msg)
    return settings | dict(configured)


def tracking_uri(project: Path, setting: str | None) -> str:
    """Where runs are logged: ``MLFLOW_TRACKING_URI``, else the setting, else a database at the project's root.

    Its path is absolute, because a relative one would depend on the current directory and differ between a notebook and ``kedro run``.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or setting or f"sqlite:///{(project / 'mlflow.db').absolute()}"


def flatten_parameters(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten parameters to dotted names and short texts: models by field, mappings by key, everything else as JSON.

    Long values are cut visibly, because MLflow limits their length.
    """
    for key, value in values.items():
        name = f"{prefix}{_metric_name(str(key))}"
        nested = value.model_dump() if hasattr(value, "model_dump") else value
        if isinstance(nested, dict) and nested:
            yield from flatten_parameters(nested, f"{name}.")
            continue
        text = nested if isinstance(nested, str) else json.dumps(nested, default=str)
        if len(text) > _MAX_PARAM_CHARACTERS:
            text = text[: _MAX_PARAM_CHARACTERS - len(_CUT)] + _CUT
        yield name, text


def dataset_metrics(name: str, data: Any, layout: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A dataset's numbers as metrics.

    Args:
        name: Name of the dataset, which prefixes the names of its metrics.
        data: A table, or a mapping with numbers at any depth.
        layout: ``{step: COLUMN}``, ``{by: COLUMN}``, ``{by: [COLUMN, ...]}`` or ``{}``; see the module docstring.

    Returns:
        Items ``{"step": ..., "values": {metric: number}}``. Missing values are left out.
    """
    if "step" in layout:
        step = layout["step"]
        return [{"step": int(row[step]), "values": dict(_numbers(row, name, exclude={step}))} for row in _records(data)]
    if "by" in layout:
        values: dict[str, float] = {}
        columns = [layout["by"]] if isinstance(layout["by"], str) else list(layout["by"])
        for row in _records(data):
            prefix = ".".join([name, *(_metric_name(str(row[column])) for column in columns)])
            values |= dict(_numbers(row, prefix, exclude=set(columns)))
        return [{"step": 0, "values": values}]
    return [{"step": 0, "values": dict(_numbers(data, name))}]


def _records(data: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in data.to_dict("records")]


def _numbers(data: Mapping[str, Any], prefix: str, exclude: Collection[str] = ()) -> Iterator[tuple[str, float]]:
    import math

    for key, value in data.items():
        if key in exclude:
            continue
        name = f"{prefix}.{_metric_name(str(key))}"
        if isinstance(value, dict):
            yield from _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


def _metric_name(text: str) -> str:
    """A name that MLflow accepts: letters, digits and ``_-. /`` only."""
    return "".join(character if character.isalnum() or character in "_-. /" else "_" for character in text)


def _logging_settings(name: str, catalog: DataCatalog) -> dict[str, Any]:
    settings = (getattr(catalog.get(name), "metadata", None) or {}).get("mlflow") or {}
    unknown = set(settings) - _KEYS
    if unknown:
        msg = f"unknown key {sorted(unknown)[0]!r} in metadata.mlflow of catalog entry {name!r}; choose from {', '.join(sorted(_KEYS))}"
        raise TrackingError(msg)
    if settings.get("headline") and settings["headline"] not in KINDS:
        msg = f"unknown headline {settings['headline']!r} in metadata.mlflow of catalog entry {name!r}; choose from {', '.join(KINDS)}"
        raise TrackingError(msg)
    return settings


def _is_saved_by_this_run(dataset: Any) -> bool:
    """Whether this run saved the newest version of a dataset; ``False`` for unversioned ones, where that cannot be known."""
    if not hasattr(dataset, "resolve_save_version") or dataset.resolve_save_version() is None:
        return False
    try:
        return bool(dataset.resolve_load_version() == dataset.resolve_save_version())
    except VersionNotFoundError:
        return False


def _saved_path(dataset: Any) -> str:
    path = dataset._get_load_path() if hasattr(dataset, "_get_load_path") else dataset._filepath  # noqa: SLF001
    return str(path)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else ""


def main(files: list[str]) -> int:
    """Send the given pending logs, as many as possible; the exit code is 1 if one of them could not be sent."""
    code = 0
    for file in files:
        try:
            send_pending(Path(file))
        except Exception as error:  # noqa: BLE001  whatever goes wrong, the file stays and the next one is tried
            sys.stderr.write(f"Error: {file} is kept: {type(error).__name__}: {sentence(error)}\n")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
