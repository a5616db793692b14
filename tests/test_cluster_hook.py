from __future__ import annotations

import sys

import pytest

from embedding_adaptation.cluster import session
from embedding_adaptation.cluster_hook import ClusterEnd
from embedding_adaptation.settings import HOOKS


def test_every_run_has_the_hook():
    assert any(isinstance(hook, ClusterEnd) for hook in HOOKS)


@pytest.mark.parametrize("succeeded", [True, False])
def test_blocks_stay_after_a_run_that_failed(tmp_path, succeeded):
    (tmp_path / "blocks").mkdir()
    session.keep(tmp_path / "blocks")
    ClusterEnd().after_pipeline_run() if succeeded else ClusterEnd().on_pipeline_error()
    assert (tmp_path / "blocks").is_dir() != succeeded
    assert not session._state.used


def test_a_run_without_a_cluster_loads_nothing(monkeypatch):
    monkeypatch.delitem(sys.modules, session.__name__)
    ClusterEnd().after_pipeline_run()
    assert session.__name__ not in sys.modules
