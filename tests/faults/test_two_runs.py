"""Two runs at once in one folder, and folders that cannot be written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time

import pytest

from faults.chain import OUTPUT, Call, copied, finish, kedro, start
from faults.conftest import ORDER
from faults.results import differences

pytestmark = pytest.mark.faults

STARTED = re.compile(r"Running node|INFO +1/\d+ ")


def paused(begun, go):
    """Says that it has begun, and waits."""

    def wait():
        begun.touch()
        while not go.exists():
            time.sleep(0.02)

    return wait


def begin(project, arguments, node, place):
    """Start a run that waits at a node; returns its process, its log and the file that lets it go on."""
    begun, go = place / "begun", place / "go"
    process, log = start(project, *arguments, fault=Call(node, paused(begun, go)))
    deadline = time.monotonic() + 120
    while not begun.exists():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.02)
    return process, log, go


@pytest.mark.parametrize(
    ("pipeline", "node"),
    [
        ("data_augmentation", "generate_candidates_node"),
        pytest.param("contrastive_finetuning", "train_adapter_node", marks=pytest.mark.full),
        pytest.param("text_clustering", "embed_corpus_node", marks=pytest.mark.full),
    ],
)
def test_a_second_run_in_a_working_folder_says_at_once_that_the_first_is_running(pipeline, node, stages, tmp_path):
    stage = stages(pipeline)
    project = copied(stage.before, tmp_path / "project")
    process, log, go = begin(project, stage.arguments, node, tmp_path)
    second = kedro(project, *stage.arguments)
    assert second.code > 0
    assert f"another run is using {project}" in second.output
    assert f"process {process} on" in second.output
    assert not STARTED.search(second.output)
    go.touch()
    first = finish(process, log)
    assert first.code == 0, first.output[-2000:]
    assert not differences(project, stage.after)
    assert kedro(project, *stage.arguments).code == 0


def test_two_runs_that_share_no_working_folder_both_end_with_their_own_results(stages, tmp_path):
    """The second, with another seed, overtakes the first between two of its nodes."""
    stage = stages("clustering_evaluation")
    project = copied(stage.before, tmp_path / "project")
    process, log, go = begin(project, stage.arguments, "gather_scores_node", tmp_path)
    second = kedro(project, *stage.arguments, "--params", "clustering_evaluation.seeds=[5]")
    assert second.code == 0, second.output[-2000:]
    go.touch()
    first = finish(process, log)
    assert first.code == 0, first.output[-2000:]
    places = [place for place in (project / OUTPUT).glob("*/evaluation_plan.parquet/*") if place.is_dir()]
    for version in (project / OUTPUT).glob(f"*/*/{max(place.name for place in places)}"):
        shutil.rmtree(version)
    assert not differences(project, stage.after)


@pytest.mark.parametrize("pipeline", ["__default__", *(pytest.param(name, marks=pytest.mark.full) for name in ORDER)])
def test_a_folder_that_cannot_be_written_stops_the_run_before_any_work(pipeline, stages, tmp_path):
    project = copied(stages("text_clustering").after, tmp_path / "project")
    output = project / OUTPUT
    as_root = os.geteuid() == 0
    if as_root:
        subprocess.run(["mount", "--bind", str(output), str(output)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(output)], check=True)
    else:
        subprocess.run(["chmod", "-R", "a-w", str(output)], check=True)
    try:
        outcome = kedro(project, f"--pipelines={pipeline}")
    finally:
        subprocess.run(["umount", "-l", str(output)] if as_root else ["chmod", "-R", "u+w", str(output)], check=True)
    assert outcome.code > 0
    assert not STARTED.search(outcome.output)
    assert f"{output}" in outcome.output
    assert "(Read-only" in outcome.output if as_root else "cannot write" in outcome.output
