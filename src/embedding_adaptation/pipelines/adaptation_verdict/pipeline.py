"""The adaptation_verdict pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.adaptation_verdict.nodes import judge_adaptation


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  Kedro's interface
    """Adapter, and answers if there are any -> verdict."""
    return Pipeline(
        [
            Node(
                func=judge_adaptation,
                inputs=["adapter", "answers", "params:adaptation_verdict"],
                outputs="verdict",
                name="judge_adaptation_node",
            )
        ],
        tags="adaptation_verdict",
    )
