from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import AbstractDataset, DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from embedding_adaptation import progress as module
from embedding_adaptation.progress import TIMES_FILE, Progress, read_times

NODES = [Node(lambda: 1, None, "a", name="first_node", tags="augmentation"), Node(lambda a: a, "a", "b", name="second_node")]


def run(progress, nodes=NODES, *, fails=False):
    progress.before_pipeline_run(pipeline=Pipeline(nodes))
    for node in nodes:
        progress.before_node_run(node=node)
        progress.after_node_run(node=node, outputs={})
    progress.on_pipeline_error() if fails else progress.after_pipeline_run()


def context(folder):
    return SimpleNamespace(project_path=folder, config_loader={"globals": {"output": "out"}})


def test_a_run_says_where_it_is(caplog):
    caplog.set_level("INFO", logger="embedding_adaptation")
    progress = Progress()
    progress.before_node_run(node=NODES[0])  # in a process that has not seen the pipeline
    assert caplog.messages == []
    run(progress)
    assert caplog.messages[:-1] == ["1/2 first (augmentation)", "2/2 second"]
    assert caplog.messages[-1].startswith("Pipeline execution completed successfully in 0.")


def test_a_run_says_how_long_nodes_took_last_time(caplog, tmp_path):
    caplog.set_level("INFO", logger="embedding_adaptation")
    file = tmp_path / "out" / TIMES_FILE
    file.parent.mkdir()
    file.write_text(json.dumps({"first_node": 130.0, "second_node": 1.0, "of_another_pipeline_node": 7.0}))
    progress = Progress()
    progress.after_context_created(context=context(tmp_path))
    run(progress)
    assert caplog.messages[:3] == ["2 nodes; last time they took 2 min", "1/2 first (augmentation), last time 2 min", "2/2 second"]
    kept = read_times(file)
    assert kept["first_node"] < 1
    assert kept["of_another_pipeline_node"] == 7.0


def test_a_node_that_yields_its_results_takes_until_the_last_one_is_saved(tmp_path):
    def yields():
        for number in range(3):
            time.sleep(0.1)
            yield {str(number): number}

    class Chunks(AbstractDataset):
        def _load(self):
            return {}

        def _save(self, data):
            pass

        def _describe(self):
            return {}

    hooks = _create_hook_manager()
    progress = Progress()
    progress.after_context_created(context=context(tmp_path))
    hooks.register(progress)
    nodes = Pipeline([Node(yields, None, "chunks", name="yielding_node")])
    progress.before_pipeline_run(pipeline=nodes)
    SequentialRunner().run(nodes, DataCatalog({"chunks": Chunks()}), hooks)
    progress.after_pipeline_run()
    assert 0.3 <= read_times(tmp_path / "out" / TIMES_FILE)["yielding_node"] < 2


@pytest.mark.parametrize("content", [None, "", "[]", '{"first_node": "long"}', "\x00"])
def test_times_that_cannot_be_read_are_none(content, tmp_path, caplog):
    caplog.set_level("INFO", logger="embedding_adaptation")
    file = tmp_path / "out" / TIMES_FILE
    file.parent.mkdir()
    if content is not None:
        file.write_text(content)
    progress = Progress()
    progress.after_context_created(context=context(tmp_path))
    run(progress, NODES[:1], fails=True)
    assert caplog.messages == ["1/1 first (augmentation)"]
    assert set(read_times(file)) == {"first_node"}


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path, monkeypatch):
    progress = Progress()
    progress.after_context_created(context=context(tmp_path))

    def full(*_, **__):
        raise OSError("read-only")

    monkeypatch.setattr(module, "replacing_file", full)
    run(progress)
    assert not (tmp_path / "out" / TIMES_FILE).exists()


def test_a_first_run_says_what_the_same_work_on_the_other_weights_took(caplog):
    caplog.set_level("INFO", logger="embedding_adaptation")
    nodes = [
        Node(lambda: 1, None, f"{side}_{name}", name=f"{side}.{name}_node") for side in ("base", "adapted") for name in ("read", "plot")
    ]
    progress = Progress()
    progress.before_pipeline_run(pipeline=Pipeline(nodes))
    for node in nodes:
        progress.before_node_run(node=node)
        progress.after_node_run(node=node, outputs={})
        progress._now[node.name] = 40.0 if "read" in node.name else 0.1
    said = ["1/4 base.read", "2/4 base.plot", "3/4 adapted.read, about 40 s like base.read", "4/4 adapted.plot"]
    assert caplog.messages == said
