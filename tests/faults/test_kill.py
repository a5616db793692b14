"""kill -9 in every node, then the same command."""

from __future__ import annotations

import shutil

import pytest

from faults.chain import OUTPUT, KillAtStart, KillInWriting, copied, kedro, leftovers, names, stored
from faults.conftest import SHORT, nodes_by_pipeline
from faults.results import differences

pytestmark = pytest.mark.faults

NODES = [
    pytest.param(pipeline, node, marks=[] if node in SHORT else pytest.mark.full, id=node)
    for pipeline, nodes in nodes_by_pipeline().items()
    for node in nodes
]


@pytest.mark.parametrize(("pipeline", "node"), NODES)
def test_a_killed_node_costs_nothing(pipeline, node, stages, tmp_path, record_property):
    """Killed when it begins, killed again when half of its middle output is written, and then run to the end."""
    stage = stages(pipeline)
    project = copied(stage.before, tmp_path / "project")
    assert kedro(project, *stage.arguments, fault=KillAtStart(node)).code == -9
    finished = stored(project)
    # Files in the project; scratch files elsewhere leave nothing to go on from.
    written = [number for number, file in enumerate(stage.commits.get(node, []), start=1) if str(OUTPUT) in file]
    record_property("faults", 2 if written else 1)
    if written:
        half_way = kedro(project, *stage.arguments, fault=KillInWriting(node, written[(len(written) - 1) // 2]))
        assert half_way.code == -9, half_way.output[-2000:]
        assert leftovers(project)
        now = stored(project)
        assert {file: now.get(file) for file in finished} == finished
        finished = now
    last = kedro(project, *stage.arguments)
    assert last.code == 0, last.output[-3000:]
    assert not differences(project, stage.after)
    now = stored(project)
    assert {file: now.get(file) for file in finished} == finished, "something finished was made again"
    assert names(project) == names(stage.after)
    assert not leftovers(project)
    shutil.rmtree(project)


@pytest.mark.full
@pytest.mark.parametrize("node", ["generate_candidates_node", "train_adapter_node", "adapted.extract_embeddings_node", "score_cells_node"])
def test_the_whole_chain_goes_on_from_where_it_was_killed(node, stages, tmp_path):
    """The same with the command for all of it."""
    start, end = stages("data_augmentation").before, stages("end_to_end").after
    project = copied(start, tmp_path / "project")
    assert kedro(project, fault=KillInWriting(node, 2)).code == -9
    finished = stored(project)
    last = kedro(project)
    assert last.code == 0, last.output[-3000:]
    assert not differences(project, end)
    now = stored(project)
    assert {file: now.get(file) for file in finished} == finished
    shutil.rmtree(project)
