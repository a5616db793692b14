"""The Hub path of base models, against a local server that speaks the Hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import json, sys, tempfile
from pathlib import Path
from embedding_adaptation.embedder.base_model import BaseModelError, check_source, convert
try:
    source = check_source(sys.argv[1])
    target = Path(tempfile.mkdtemp())
    card = convert(source, target)
    print(json.dumps({"revision": card.revision, "licence": card.licence, "parameters": card.parameters, "sha256": card.sha256}))
except BaseModelError as error:
    print(json.dumps({"error": str(error)}))
"""


class HubHandler(BaseHTTPRequestHandler):
    """Serves one repository: its information and its files."""

    files: dict[str, bytes]

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/gated/"):
            return self._send(401, b"{}", body, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if not path.removeprefix("/api/models").startswith("/team/tiny"):
            return self._send(401, b"{}", body, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "none"})
        if path.startswith("/api/models"):
            if "/revision/" in path and path.rsplit("/", 1)[-1] not in {"main", COMMIT}:
                return self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "none"})
            if "/tree/" in path:
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in self.files.items()
                ]
                return self._send(200, json.dumps(entries).encode(), body, {})
            info = {
                "id": "team/tiny", "sha": COMMIT, "cardData": {"license": "mit"}, "tags": [], "private": False, "downloads": 0,
                "siblings": [{"rfilename": name} for name in self.files],
            }  # fmt: skip
            return self._send(200, json.dumps(info).encode(), body, {})
        data = self.files.get(path.rsplit("/", 1)[-1])
        if data is None:
            return self._send(404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        return self._send(200, data, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

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
def hub(tiny_weights):
    """A Hub with one repository, the tiny model."""
    names = [path for path in tiny_weights.base.iterdir() if path.name != "card.json"]
    handler = type("Handler", (HubHandler,), {"files": {path.name: path.read_bytes() for path in names}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def resolve(setting, endpoint, cache, **changes):
    """Resolve in a process of its own: the Hub's address is read once, at import."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **changes}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, setting], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_repository_is_pinned_to_its_commit_and_stays_usable_offline(hub, tmp_path, tiny_weights):
    card = resolve("team/tiny@main", hub, tmp_path)
    assert card["revision"] == COMMIT
    assert card["licence"] == "mit"
    assert card["parameters"] == tiny_weights.card.parameters
    offline = resolve("team/tiny@main", "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert offline["sha256"] == card["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("team/other", "neither a local path nor a repository the Hub shows you"),
        ("team/tiny@nowhere", "no revision 'nowhere'"),
        ("gated/model", "accept its terms on the Hub and log in"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub, tmp_path, setting, message):
    assert message in resolve(setting, hub, tmp_path)["error"]


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_explained(tmp_path):
    error = resolve("team/tiny", "http://127.0.0.1:9", tmp_path)["error"]
    assert "does not answer" in error
    assert "set base_model to a local folder or GGUF file" in error
