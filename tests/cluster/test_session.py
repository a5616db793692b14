from __future__ import annotations

import os
import sys

import pytest

from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.settings import ClusterError, ClusterSettings


def options_on_a_cluster(embedder_options, **cluster):
    return embedder_options(cluster={"folder": "blocks", **cluster})


def test_without_ray_the_options_say_what_to_install(embedder_options, monkeypatch, settings):
    monkeypatch.setitem(sys.modules, "ray", None)
    options = options_on_a_cluster(embedder_options)
    with pytest.raises(ClusterError, match=r'pip install "embedding-adaptation\[cluster\]"'):
        options.check(options, lambda _: True)
    with pytest.raises(ClusterError, match=r'pip install "embedding-adaptation\[cluster\]"'):
        session.connect(settings)
    plain = embedder_options()
    plain.check(plain, lambda _: True)


def test_the_options_become_settings_with_a_folder_of_the_project(embedder_options, project, monkeypatch):
    monkeypatch.setenv("EMBEDDING_ADAPTATION_PROJECT", str(project))
    settings = options_on_a_cluster(embedder_options, workers=3).cluster.settings
    assert settings == ClusterSettings(project / "blocks", workers=3)


def test_a_cluster_that_is_not_there_is_named(monkeypatch, settings):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:6379")

    def refuse(address, **_):
        raise ConnectionError(f"cannot connect to {address}\nand more")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=r"no Ray cluster at 'nowhere:6379' \(cannot connect to nowhere:6379\); start it"):
        session.connect(settings)


def test_a_cluster_is_started_without_keys_and_with_a_bounded_store(monkeypatch, settings):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    seen = {}

    def init(**arguments):
        seen.update(arguments, environment=dict(os.environ))

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "kept-private")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(session, "workers", lambda _: (2, False))
    monkeypatch.setattr(session._state, "started", False)
    session.connect(settings)
    hidden = {"OPENAI_API_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"}
    assert not hidden & set(seen["environment"])
    assert {"RAY_AUTH_TOKEN", "TOKENIZERS_PARALLELISM"} <= set(seen["environment"])
    assert {os.environ[name] for name in hidden} == {"kept-private"}
    assert seen["object_store_memory"] == 256 << 20
    assert "runtime_env" not in seen
    monkeypatch.setattr(session._state, "started", False)


def test_blocks_are_removed_after_success_only(tmp_path):
    (tmp_path / "blocks").mkdir()
    session.keep(tmp_path / "blocks")
    session.stop(succeeded=False)
    assert (tmp_path / "blocks").is_dir()
    session.keep(tmp_path / "blocks")
    session.stop(succeeded=True)
    assert not (tmp_path / "blocks").exists()
