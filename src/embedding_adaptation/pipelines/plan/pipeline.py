"""The pipeline that says what a run will take before it is paid for."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.plan.nodes import measure_samples, plan_run


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  Kedro's interface
    """Corpus and options -> runs on samples of it -> what ``adapt`` takes for all of it."""
    return Pipeline(
        [
            Node(
                func=measure_samples,
                inputs=["corpus", "base_model", "parameters", "params:plan"],
                outputs="sample_runs",
                name="measure_samples_node",
            ),
            Node(
                func=plan_run,
                inputs=["sample_runs", "parameters", "params:plan"],
                outputs=["plan", "plan_table"],
                name="plan_run_node",
            ),
        ],
        tags="plan",
    )
