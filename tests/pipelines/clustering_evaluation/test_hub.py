"""Tasks of mteb from the Hub, against a local server that speaks the Hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


class HubHandler(BaseHTTPRequestHandler):
    """Serves one data set at one revision: its information and its files."""

    files: dict[str, bytes]
    revision: str

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        path = self.path.partition("?")[0]
        if not path.removeprefix("/api").startswith(f"/datasets/{REPOSITORY}"):
            return self._send(401, b"{}", body, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "none"})
        if self.revision not in path:
            return self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "none"})
        if "/tree/" in path:
            entries = [{"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in self.files.items()]
            return self._send(200, json.dumps(entries).encode(), body, {})
        if path.startswith("/api/"):
            info = {"id": REPOSITORY, "sha": self.revision, "tags": [], "private": False, "downloads": 0,
                    "siblings": [{"rfilename": name} for name in self.files]}  # fmt: skip
            return self._send(200, json.dumps(info).encode(), body, {})
        data = self.files.get(path.partition(f"/resolve/{self.revision}/")[2])
        if data is None:
            return self._send(404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.revision})
        return self._send(200, data, body, {"X-Repo-Commit": self.revision, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def _send(self, status, data, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args):
        """Quiet."""


@pytest.fixture
def hub(repository):
    """A maker of Hubs with one data set at a revision."""
    servers = []

    def serve(revision=REVISION):
        handler = type("Handler", (HubHandler,), {"files": repository(REPOSITORY), "revision": revision})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def resolve(endpoint, cache, *arguments, **changes):
    """In a process of its own: the Hub's address is read once, at import."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **changes}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert result.stdout, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_task_comes_from_the_hub_and_then_from_its_cache(hub, mirror, tmp_path):
    from embedding_adaptation.datasets.task_mirror import TaskMirror

    found = resolve(hub(), tmp_path / "home", NAME)
    expected = TaskMirror(mirror(REPOSITORY)).fetch(REPOSITORY, REVISION)
    assert found == {"revision": REVISION, "sha256": expected.sha256, "origin": "hub", "rows": 1500}
    offline = resolve("http://127.0.0.1:9", tmp_path / "home", NAME, HF_HUB_OFFLINE="1")
    assert offline == found


@pytest.mark.slow
def test_a_mirror_made_from_the_hub_serves_a_machine_without_a_network(hub, tmp_path):
    made = resolve(hub(), tmp_path / "home", NAME, str(tmp_path / "mirror"))
    assert (made["origin"], made["rows"]) == ("mirror", 1500)
    manifest = json.loads((tmp_path / "mirror" / "mirror.json").read_text())
    assert manifest == {f"{REPOSITORY}@{REVISION}": {"all": made["sha256"]}}
    assert (tmp_path / "mirror" / "datasets--mteb--twentynewsgroups-clustering" / "snapshots" / REVISION / "test.jsonl.gz").is_file()


@pytest.mark.slow
def test_what_the_hub_refuses_is_explained(hub, tmp_path):
    assert f"{REPOSITORY} has no revision {REVISION}" in resolve(hub("0" * 40), tmp_path / "home", NAME)["error"]
    assert "the Hub shows you no data set mteb/emotion" in resolve(hub(), tmp_path / "home", "EmotionClassification")["error"]
