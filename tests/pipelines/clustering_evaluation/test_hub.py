"""Tasks of mteb from the Hub, against a local server that speaks the Hub's protocol."""

from __future__ import annotations

import json
from functools import partial

import pytest

NAME, REPOSITORY = "TwentyNewsgroupsClustering.v2", "mteb/twentynewsgroups-clustering"
REVISION = "6125ec4e24fa026cec8a478383ee943acfbd5449"
SCRIPT = """
import json, sys
from pathlib import Path
from embedding_adaptation.datasets.task_mirror import MirrorError, TaskMirror
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions
from embedding_adaptation.pipelines.clustering_evaluation.tasks import mirror_tasks, resolve_tasks

options = EvaluationOptions.model_validate(
    {"tasks": [sys.argv[1]], "seeds": [0], "statistics": {"seed": 0}, "map_strategies": ["a", "b"]}
)
mirror = TaskMirror(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
try:
    if mirror.folder:
        mirror.folder.mkdir()
        mirror_tasks(mirror, options)
    (task,) = resolve_tasks(options, None, mirror)
    fresh = task.prepare(42).fresh()
    files, rows = task.files, len(fresh.dataset["test"])
    print(json.dumps({"revision": files.revision, "sha256": files.sha256, "origin": files.origin, "rows": rows}))
except (MirrorError, EvaluationError) as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture
def hub(serve_hub, repository):
    """A maker of Hubs with one data set at a revision."""
    return lambda revision=REVISION: serve_hub("datasets", REPOSITORY, repository(REPOSITORY), revision)


@pytest.fixture
def resolve(ask_hub):
    """Resolves a task, and mirrors it where a folder is named."""
    return partial(ask_hub, SCRIPT)


@pytest.mark.slow
def test_a_task_comes_from_the_hub_and_then_from_its_cache(resolve, hub, mirror, tmp_path):
    from embedding_adaptation.datasets.task_mirror import TaskMirror

    found = resolve(hub(), tmp_path / "home", NAME)
    expected = TaskMirror(mirror(REPOSITORY)).fetch(REPOSITORY, REVISION)
    assert found == {"revision": REVISION, "sha256": expected.sha256, "origin": "hub", "rows": 1500}
    offline = resolve("http://127.0.0.1:9", tmp_path / "home", NAME, HF_HUB_OFFLINE="1")
    assert offline == found


@pytest.mark.slow
def test_a_mirror_made_from_the_hub_serves_a_machine_without_a_network(resolve, hub, tmp_path):
    made = resolve(hub(), tmp_path / "home", NAME, str(tmp_path / "mirror"))
    assert (made["origin"], made["rows"]) == ("mirror", 1500)
    manifest = json.loads((tmp_path / "mirror" / "mirror.json").read_text())
    assert manifest == {f"{REPOSITORY}@{REVISION}": {"all": made["sha256"]}}
    assert (tmp_path / "mirror" / "datasets--mteb--twentynewsgroups-clustering" / "snapshots" / REVISION / "test.jsonl.gz").is_file()


@pytest.mark.slow
def test_what_the_hub_refuses_is_explained(resolve, hub, tmp_path):
    assert f"{REPOSITORY} has no revision {REVISION}" in resolve(hub("0" * 40), tmp_path / "home", NAME)["error"]
    assert "there is no data set mteb/emotion" in resolve(hub(), tmp_path / "home", "EmotionClassification")["error"]
