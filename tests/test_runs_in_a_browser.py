"""MLflow's table of runs as a person meets it, in a real browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from embedding_adaptation.headlines import METRICS
from embedding_adaptation.tracking import MlflowSender

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture
def address(tmp_path: Path, monkeypatch):
    """Where ``make mlflow`` leads, for a store with one run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sender = MlflowSender(f"sqlite:///{tmp_path / 'mlflow.db'}", "embedding-adaptation", tmp_path)
    sender.send({"kind": "start", "time": 1, "name": "end_to_end", "tags": {}})
    sender.send({"kind": "metrics", "time": 1, "step": 0, "values": dict.fromkeys(METRICS, 0.25) | {"exported_score": 0.625}})
    sender.send({"kind": "tags", "values": {"verdict": "better"}})
    sender.send({"kind": "end", "time": 2, "status": "FINISHED", "tags": {}})
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "embedding_adaptation.runs_page", "--no-browser", "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield next(line for line in server.stdout if line.startswith("Runs: ")).split()[1]
    finally:
        server.terminate()
        server.wait(30)


def test_the_table_of_runs_shows_the_headlines(address):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1900, "height": 900})
        page.goto(address)
        page.wait_for_selector("text=exported_score", timeout=60_000)
        page.wait_for_selector("text=0.625", timeout=20_000)
        shown = page.inner_text("body")
        if picture := os.environ.get("RUNS_PICTURE"):
            page.screenshot(path=picture)
        browser.close()
    assert {"best_score", "gain", "gain_low", "gain_high", "better", "end_to_end"} <= set(shown.split())
    assert "Prompts & versions" not in shown
