"""A local server that speaks the Hub's protocol, and a process that is told of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class HubHandler(BaseHTTPRequestHandler):
    """Serves one repository at one revision: its information and its files."""

    kind: ClassVar[str]  # "models" or "datasets"
    repository: ClassVar[str]
    files: ClassVar[dict[str, bytes]]
    revision: ClassVar[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/{self.kind}/gated/"):
            return self._refuse(401, "GatedRepo", body=body)
        files = "" if self.kind == "models" else f"/{self.kind}"
        place = re.fullmatch(rf"(/api/{self.kind}|{files})/{self.repository}(?:/(revision|tree|resolve)/([^/]+)/?(.*))?", path)
        if not place:
            return self._refuse(401, "RepoNotFound", body=body)
        _, view, revision, name = place.groups()
        if revision not in {None, "main", self.revision}:
            return self._refuse(404, "RevisionNotFound", body=body)
        if view == "tree":
            facts = {name: {"size": len(data), "oid": hashlib.sha1(data).hexdigest()} for name, data in self.files.items()}
            entries = [{"type": "file", "path": name, **fact} for name, fact in facts.items()]
            return self._send(200, json.dumps(entries).encode(), {}, body=body)
        if view != "resolve":
            info = {
                "id": self.repository, "sha": self.revision, "cardData": {"license": "mit"}, "tags": [], "private": False, "downloads": 0,
                "siblings": [{"rfilename": name} for name in self.files],
            }  # fmt: skip
            return self._send(200, json.dumps(info).encode(), {}, body=body)
        data = self.files.get(name)
        if data is None:
            return self._refuse(404, "EntryNotFound", body=body)
        return self._send(200, data, {"X-Repo-Commit": self.revision, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}, body=body)

    def _refuse(self, status: int, code: str, *, body: bool) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": self.revision}, body=body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def serve_hub() -> Iterator[Callable[..., str]]:
    """A maker of Hubs with one repository each; it returns the Hub's address."""
    servers = []

    def serve(kind: str, repository: str, files: dict[str, bytes], revision: str) -> str:
        facts = {"kind": kind, "repository": repository, "files": files, "revision": revision}
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubHandler,), facts))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def ask_hub() -> Callable[..., Any]:
    """A runner of scripts in a process of their own, for the Hub's address is read once, at import; it returns the last line's JSON."""

    def ask(script: str, endpoint: str, cache: object, *arguments: str, **changes: str) -> Any:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **changes}
        result = subprocess.run(
            [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, timeout=180, check=False
        )
        assert result.stdout, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return ask
