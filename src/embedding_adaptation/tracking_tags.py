"""All tags in MLflow, with their meaning: of the experiment, of runs, and of registered versions. Nothing else names one."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# MLflow's own names.
EXPERIMENT_KIND, DESCRIPTION, DATASET_CONTEXT = "mlflow.experimentKind", "mlflow.note.content", "mlflow.data.context"
# Followed by the key of a view of the runs, which an address can name.
SHARED_VIEW = "mlflow.sharedViewState."
# Makes MLflow's pages show runs and models, not traces and prompts.
MODEL_DEVELOPMENT = "custom_model_development"

COMMAND, ENVIRONMENT, PIPELINES, VERSION = "kedro.command", "kedro.env", "kedro.pipelines", "kedro.version"
PROCESS, ERROR = "kedro.process", "error"
COMMIT, DIRTY = "git.commit", "git.dirty"
VERDICT, EXPORTED, BEST = "verdict", "exported.strategy", "best.strategy"
DATA, PROTOCOL, CHAMPION_VERDICT = "evaluation.data", "evaluation.protocol", "champion.verdict"
# MLflow rejects longer values.
VALUE_CHARACTERS = 1000

RUN_TAGS: dict[str, str] = {
    VERDICT: "`better`, `no_difference`, `worse` or `cannot_tell`: what the run says about adaptation",
    EXPORTED: "the strategy of the exported model",
    BEST: "the strategy with the highest V-measure on the labelled texts",
    DESCRIPTION: "the verdict in one sentence, shown as the run's description",
    COMMAND: "the command line",
    ENVIRONMENT: "the environment in `conf/`",
    PIPELINES: "the pipelines that were asked for",
    VERSION: "the version under which the catalog has saved the run's datasets",
    PROCESS: "the process and its machine, by which a killed run is recognised",
    COMMIT: "the project's Git commit, or `unknown`",
    DIRTY: "whether there were uncommitted changes",
    ERROR: "why the run did not finish",
    "loaded.DATASET": "the version of a dataset that was read",
    "saved.DATASET": "the version of a dataset that was written",
}
VERSION_TAGS: dict[str, str] = {
    "score.METRIC": "mean over seeds, for example `score.v_measure`",
    "score.METRIC.sd": "standard deviation over seeds",
    "base_score.METRIC": "the base model under the same prompt",
    DATA: "hash of the labelled texts; scores of the same texts can be compared",
    PROTOCOL: "seeds and number of documents; scores under the same protocol can be compared",
    BEST: "the best strategy of the same comparison",
    "best.distance": "V-measure minus that of the best strategy",
    VERDICT: "`better`, `no_difference`, `worse` or `cannot_tell`",
    CHAMPION_VERDICT: "why the version became champion, or why not",
    "base_model": "the base model as it was set",
    "base_model.revision": "its revision",
    "base_model.sha256": "its checksum",
    "fingerprint": "identity of the exported weights",
    "strategy": "the exported strategy",
    "weights": "`base` or `adapted`",
    "adapter.version": "what `--load-versions` takes",
    "adapter.fingerprint": "identity of the adapter",
    "adapter.step": "the training step that was kept",
    "corpus": "name of the file it was adapted to; left out, as the next two, if your own pairs were used",
    "corpus.texts": "number of clean texts",
    "corpus.identity": "hash of the clean texts that ignores their order",
    COMMIT: "the project's Git commit, or `unknown`",
    DIRTY: "whether there were uncommitted changes",
    VERSION: "the version under which the catalog has saved the run's datasets",
}


def dataset_version(action: str, dataset: str, version: str) -> dict[str, str]:
    """The version of a dataset that was read or written.

    Args:
        action: ``loaded`` or ``saved``.
        dataset: Its name in the catalog.
        version: Its version.
    """
    return {f"{action}.{dataset}": version}


def score_tag(metric: str) -> str:
    """The tag of a registered version that holds a mean score."""
    return f"score.{metric}"


def git_tags(project: Path) -> dict[str, str]:
    """The project's commit, and whether there are uncommitted changes; ``unknown`` outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(  # noqa: S603  fixed arguments
                ["git", "-C", str(project), *arguments],  # noqa: S607
                capture_output=True, text=True, check=False, timeout=10,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    dirty = "unknown" if status is None else str(bool(status)).lower()
    return {COMMIT: commit or "unknown", DIRTY: dirty}


def model_tags(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Tags that describe a version in the registry, including those that the rule for the champion needs."""
    base, adapter, evaluation = facts["base_model"], facts["adapter"], facts.get("evaluation")
    values = {
        "base_model": base["name"],
        "base_model.revision": base["revision"],
        "base_model.sha256": base["sha256"],
        "adapter.version": adapter["version"],
        "adapter.fingerprint": adapter["fingerprint"],
        "adapter.step": adapter["step"],
        "fingerprint": facts.get("fingerprint"),
        "strategy": facts["strategy"]["name"],
        "weights": facts["strategy"].get("weights"),
        VERDICT: (facts.get("verdict") or {}).get("verdict"),
    }
    corpus = facts["training"]["corpus"]
    if corpus:
        values |= {"corpus": corpus["name"], "corpus.texts": corpus["kept"], "corpus.identity": corpus["identity"]["clean"]}
    if evaluation:
        values |= {DATA: evaluation["data"]["fingerprint"], PROTOCOL: json.dumps(evaluation["protocol"], sort_keys=True)}
        for metric, score in evaluation["adapted"].items():
            values |= {score_tag(metric): score["mean"], f"{score_tag(metric)}.sd": score["sd"]}
        best = evaluation.get("best") or {}
        if "mean" in best and "v_measure" in evaluation["adapted"]:
            distance = evaluation["adapted"]["v_measure"]["mean"] - best["mean"]
            values |= {BEST: best["strategy"], "best.distance": f"{distance:+.4f}"}
        for metric, score in (evaluation["base"] or {}).items():
            values[f"base_{score_tag(metric)}"] = score["mean"]
    for name, value in values.items():
        if value not in {None, ""}:
            yield name, str(value)[:VALUE_CHARACTERS]
