from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedding_adaptation import paths
from embedding_adaptation.paths import output_folder, project_path, project_root, set_project_root


@pytest.fixture
def no_session(monkeypatch):
    monkeypatch.delenv(paths._ROOT, raising=False)


def project_in(folder: Path) -> Path:
    root = folder / "project"
    (root / "notebooks" / "drafts").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "p"\nproject_name = "p"\nkedro_init_version = "1.7.0"\n')
    return root


@pytest.mark.usefixtures("no_session")
def test_relative_paths_start_at_the_project_of_the_current_folder(tmp_path, monkeypatch):
    root = project_in(tmp_path)
    for folder in (root, root / "notebooks", root / "notebooks" / "drafts"):
        monkeypatch.chdir(folder)
        assert project_path("models/mine") == root / "models" / "mine"


@pytest.mark.usefixtures("no_session")
def test_outside_a_project_relative_paths_follow_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path


def test_the_project_of_the_session_counts_wherever_one_stands(tmp_path, monkeypatch):
    root = project_in(tmp_path)
    monkeypatch.setenv(paths._ROOT, "")  # set anew by what is tested, and put back afterwards
    set_project_root(root)
    monkeypatch.chdir(tmp_path)
    assert project_path("data/texts.csv") == root / "data" / "texts.csv"
    told = subprocess.run(
        [sys.executable, "-c", "from embedding_adaptation.paths import project_path; print(project_path('x'))"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == str(root / "x")


def test_a_project_that_is_gone_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setenv(paths._ROOT, str(tmp_path / "gone"))
    monkeypatch.chdir(tmp_path)
    assert project_root() == tmp_path


def test_the_home_folder_is_written_as_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project_path("~/texts #1, final.csv") == tmp_path / "texts #1, final.csv"
    assert project_path("/data/texts.csv") == Path("/data/texts.csv")
    assert project_path("~nobody-of-this-name/x").name == "x"


@pytest.mark.parametrize(("output", "folder"), [("data", "PROJECT/data"), ("/elsewhere", "/elsewhere"), ("~/results", "HOME/results")])
def test_the_output_folder_is_where_the_catalog_writes(tmp_path, monkeypatch, output, folder):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    context = SimpleNamespace(project_path=tmp_path, config_loader={"globals": {"output": output}})
    expected = folder.replace("PROJECT", str(tmp_path)).replace("HOME", str(tmp_path / "home"))
    assert output_folder(context) == Path(expected)
