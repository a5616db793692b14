"""A namespace for every pipeline: a box in kedro-viz that opens, and a name for ``kedro run --namespaces``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kedro.pipeline import Node, Pipeline

if TYPE_CHECKING:
    from collections.abc import Collection


class BoxedNode(Node):
    """A node in the namespace of its pipeline, under the name that it has without it.

    Kedro puts a namespace in front of a node's name. Here that of the pipeline is left out, so that people who type
    ``kedro run --nodes=train_adapter_node``, and all code that knows nodes by name, need not know in which pipeline they are. A node's
    other namespaces stay in its name.

    Args:
        node: The node as its pipeline defines it, or already in a namespace that begins with ``box``.
        box: The name of the pipeline.
    """

    def __init__(self, node: Node, box: str) -> None:
        self._box = box
        inner = node.namespace.split(".") if node.namespace else []
        super().__init__(
            node.func,
            node._inputs,  # noqa: SLF001  a mapping is only known here
            node._outputs,  # noqa: SLF001
            name=node._name,  # noqa: SLF001
            tags=node.tags,
            confirms=node.confirms,
            namespace=".".join(inner if box in inner else [box, *inner]),
            preview_fn=node._preview_fn,  # noqa: SLF001
        )

    @property
    def name(self) -> str:
        """The name without the pipeline's namespace."""
        return super().name.removeprefix(f"{self._box}.")

    def _copy(self, **changes: Any) -> Node:
        return BoxedNode(super()._copy(**changes), self._box)


def in_boxes(pipeline: Pipeline, boxes: Collection[str]) -> Pipeline:
    """Put each node that has the tag of a pipeline into the namespace of that pipeline; datasets and parameters keep their names.

    Args:
        pipeline: One pipeline, or several combined.
        boxes: Names of pipelines. A node without any of them as a tag stays as it is.
    """
    return Pipeline([BoxedNode(node, min(tags)) if (tags := node.tags.intersection(boxes)) else node for node in pipeline.nodes])
