from __future__ import annotations

import subprocess
import sys

import pytest
from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, Version
from kedro.io.core import DatasetError
from kedro.pipeline import Node, Pipeline

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.datasets.folder import FolderDataset
from embedding_adaptation.datasets.reports import JSONDataset
from embedding_adaptation.safeguards import FolderLock, Safeguards, check_writable

HOLD = """
import sys, time
from pathlib import Path
from embedding_adaptation.safeguards import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.take("shards")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "work")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_belongs_to_one_run_until_it_ends_or_is_killed(tmp_path, holder):
    catalog = DataCatalog({"work": FolderDataset(filepath=str(tmp_path / "work")), "out": JSONDataset(filepath=str(tmp_path / "out.json"))})
    run = Pipeline([Node(lambda folder: {}, "work", "out", name="some_node")])
    guards = Safeguards()
    with pytest.raises(DatasetError, match=rf"another run is using .*work \(work\): process {holder.pid} on .* since .*; wait until"):
        guards.before_pipeline_run(pipeline=run, catalog=catalog)
    holder.kill()
    holder.wait()
    guards.before_pipeline_run(pipeline=run, catalog=catalog)
    with pytest.raises(DatasetError, match="another run is using"):
        Safeguards().before_pipeline_run(pipeline=run, catalog=catalog)
    guards.before_pipeline_run(pipeline=run, catalog=catalog)  # the next run of this process, after one that was interrupted
    guards.on_pipeline_error()
    FolderLock(tmp_path / "work").take("work")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    check_writable({tmp_path / "new" / "folder": "table"})
    with pytest.raises(DatasetError, match=r"^cannot write table to /proc \(.*\); make the folder writable"):
        check_writable({__import__("pathlib").Path("/proc/none"): "table"})


def test_a_run_that_does_not_begin_leaves_no_lock(tmp_path, holder):
    folders = {"a": FolderDataset(filepath=str(tmp_path / "free")), "b": FolderDataset(filepath=str(tmp_path / "work"))}
    run = Pipeline([Node(lambda *folders: {}, ["a", "b"], "out", name="some_node")])
    catalog = DataCatalog({**folders, "out": JSONDataset(filepath=str(tmp_path / "out.json"))})
    with pytest.raises(DatasetError, match=r"another run is using .*work"):
        Safeguards().before_pipeline_run(pipeline=run, catalog=catalog)
    FolderLock(tmp_path / "free").take("a")


def test_a_run_that_another_hook_stops_takes_no_lock(tmp_path):
    class Refusing:
        @hook_impl
        def before_pipeline_run(self):
            raise ZeroDivisionError

    manager = _create_hook_manager()
    manager.register(Refusing())
    manager.register(Safeguards())  # the last one registered would be called first
    catalog = DataCatalog({"work": FolderDataset(filepath=str(tmp_path / "work"))})
    run = Pipeline([Node(lambda folder: {}, "work", "out", name="some_node")])
    with pytest.raises(ZeroDivisionError):
        manager.hook.before_pipeline_run(run_params={}, pipeline=run, catalog=catalog)
    FolderLock(tmp_path / "work").take("work")


def test_what_killed_runs_left_is_looked_for_below_a_datasets_own_folder_only(tmp_path):
    left = f".x.{scratch_prefix().split('.')[1]}.999999999-abcdefgh"
    places = [tmp_path / "store" / "version", tmp_path / "notes", tmp_path]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / left).write_text("half")
    version = Version(None, "2026-01-01T00.00.00.000Z")
    catalog = DataCatalog(
        {"plain": JSONDataset(filepath=str(tmp_path / "x.json")), "kept": JSONDataset(filepath=str(tmp_path / "store"), version=version)}
    )
    run = Pipeline([Node(lambda: ({}, {}), None, ["plain", "kept"], name="some_node")])
    Safeguards().before_pipeline_run(pipeline=run, catalog=catalog)
    assert [(place / left).exists() for place in places] == [False, True, False]
