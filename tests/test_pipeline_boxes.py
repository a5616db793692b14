from __future__ import annotations

import pickle

import pytest
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog
from kedro.io.memory_dataset import MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from embedding_adaptation.pipeline_boxes import BoxedNode, in_boxes

COMPOSITES = {"__default__", "end_to_end", "adapt"}


def double(x):
    return 2 * x


def add(x, y):
    return x + y


def halves():
    measured = Pipeline([Node(double, "x", "y", name="double_node")])
    return sum(
        (Pipeline(measured, namespace=side, inputs={"x": "x"}, outputs={"y": f"{side}_y"}) for side in ("left", "right")),
        start=Pipeline([Node(add, {"x": "left_y", "y": "right_y"}, "sum", name="add_node")]),
    )


@pytest.fixture
def boxed():
    return in_boxes(Pipeline(halves(), tags=["measuring", "slow"]), {"measuring", "other"})


def test_a_namespace_leaves_names_as_they_were(boxed):
    assert {node.name: node.namespace for node in boxed.nodes} == {
        "left.double_node": "measuring.left",
        "right.double_node": "measuring.right",
        "add_node": "measuring",
    }
    assert boxed.datasets() == halves().datasets()
    assert {node.name for node in boxed.filter(from_nodes=["left.double_node"]).nodes} == {"left.double_node", "add_node"}
    assert len(boxed.only_nodes_with_namespaces(["measuring.left"]).nodes) == 1


def test_what_kedro_copies_stays_in_its_box(boxed):
    copies = Pipeline(Pipeline(boxed, inputs={"x": "z"}), tags="more")
    assert [(node.name, node.namespace) for node in copies.nodes] == [(node.name, node.namespace) for node in boxed.nodes]
    assert all("more" in node.tags for node in copies.nodes)
    assert copies.inputs() == {"z"}


def test_a_box_within_a_namespace_is_part_of_the_name(boxed):
    inside = Pipeline(boxed, namespace="mine", prefix_datasets_with_namespace=False)
    assert {node.name for node in inside.nodes} >= {"mine.measuring.add_node"}


def test_boxed_nodes_run_and_travel_to_other_processes(boxed):
    catalog = DataCatalog({"x": MemoryDataset(3)})
    assert SequentialRunner().run(boxed, catalog)["sum"].load() == 12
    again = pickle.loads(pickle.dumps(boxed.nodes))
    assert [node.name for node in again] == [node.name for node in boxed.nodes]


def test_a_node_of_no_pipeline_stays_as_it_is():
    node = Node(double, "x", "y", name="double_node", tags="elsewhere")
    assert in_boxes(Pipeline([node]), {"measuring"}).nodes == [node]


@pytest.fixture
def registry(project):
    configure_project("embedding_adaptation")
    pipelines.set_requested(None)
    return pipelines


def test_every_pipeline_is_one_box_and_is_the_same_in_composites(registry):
    for name in set(registry) - COMPOSITES:
        assert {node.namespace.partition(".")[0] for node in registry[name].nodes} == {name}
    known = {node.name: node.namespace for name in set(registry) - COMPOSITES for node in registry[name].nodes}
    for name in COMPOSITES:
        assert {node.name: node.namespace for node in registry[name].nodes}.items() - known.items() <= {("write_report_node", None)}


def test_a_run_can_be_limited_to_a_box(registry):
    for name in ("clustering_evaluation", "model_export"):
        part = registry["end_to_end"].filter(node_namespaces=[name])
        assert {node.name for node in part.nodes} == {node.name for node in registry[name].nodes}
    (node,) = registry["end_to_end"].filter(node_namespaces=["embedding_extraction.base"]).nodes
    assert node.name == "base.extract_embeddings_node"


@pytest.mark.filterwarnings("error::UserWarning")
def test_no_box_is_interrupted_by_another(registry):
    for name in COMPOSITES:
        assert isinstance(Pipeline(registry[name].nodes).nodes[0], BoxedNode)
