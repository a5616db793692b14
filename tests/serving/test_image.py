"""The container image."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import urllib.request

import pytest

from embedding_adaptation.serving.command import main

IMAGE = "embedding-adaptation:test"


def docker(*arguments: str, timeout: int = 60) -> str:
    result = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip()


def has_docker() -> bool:
    return shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not has_docker(), reason="docker is not installed, or its daemon does not run")
def test_the_image_is_built_and_serves_a_mounted_model_as_an_ordinary_user(project, served_folder):
    docker("build", "--tag", IMAGE, str(project), timeout=3600)
    container = docker("run", "--detach", "--publish", "127.0.0.1::5001", "--volume", f"{served_folder}:/model:ro", IMAGE)
    try:
        address = docker("port", container, "5001").splitlines()[0]
        assert docker("exec", container, "id", "-u") != "0"
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://{address}/v1/models", timeout=5) as response:
                    assert b'"id":"model"' in response.read()
                break
            except OSError:
                assert time.monotonic() < deadline, docker("logs", container)
                time.sleep(1)
    finally:
        docker("rm", "--force", container)


def test_the_dockerfile_copies_what_exists_and_starts_the_command(project):
    text = (project / "Dockerfile").read_text()
    allowed = {line.removeprefix("!") for line in (project / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == allowed
    assert [name for name in copied if not (project / name).exists()] == []
    torch = re.search(r"^torch==", (project / "constraints.txt").read_text(), re.MULTILINE)
    assert torch
    assert len(re.findall(r"pip install .*-c constraints.txt", text)) == text.count("pip install")
    assert text.index("\nUSER server") < text.index("\nENTRYPOINT")
    given = re.findall(r'"(--[\w-]+)"', text[text.index("\nENTRYPOINT") :])
    assert set(given) <= {option for parameter in main.params for option in parameter.opts}
