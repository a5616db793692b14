"""A disk that is full when a node begins; then space is made, and the same command is given again."""

from __future__ import annotations

import shutil

import pytest

from faults.chain import FillDisk, copied, kedro, leftovers, names
from faults.conftest import nodes_by_pipeline
from faults.results import differences

pytestmark = pytest.mark.faults

SHORT = {"generate_candidates_node", "plot_training_curve_node"}
NODES = [
    pytest.param(pipeline, node, marks=[] if node in SHORT else pytest.mark.full, id=node)
    for pipeline, nodes in nodes_by_pipeline().items()
    for node in nodes
]


@pytest.mark.parametrize(("pipeline", "node"), NODES)
def test_a_full_disk_is_named_and_costs_nothing(pipeline, node, stages, small_disk, tmp_path, record_property):
    stage = stages(pipeline)
    record_property("faults", 1 if stage.commits.get(node) else 0)
    if not stage.commits.get(node):
        return  # it writes nothing
    project = copied(stage.before, tmp_path / "project")
    build = project / "build"
    if build.exists():
        build.rename(tmp_path / "before")
    disk = small_disk(build, 256)
    if (tmp_path / "before").exists():
        shutil.copytree(tmp_path / "before", disk, dirs_exist_ok=True)
    full = kedro(project, *stage.arguments, fault=FillDisk(node, disk))
    assert full.code > 0, full.output[-2000:]
    assert f"No space left on the disk of {project}" in full.output, full.output[-2000:]
    assert "run the same command again" in full.output
    assert not leftovers(project)
    (disk / "ballast").unlink()
    again = kedro(project, *stage.arguments)
    assert again.code == 0, again.output[-3000:]
    assert not differences(project, stage.after)
    assert names(project) == names(stage.after)
