"""The attention analysis pipeline: one measurement under two namespaces, and their comparison."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.attention_analysis.nodes import (
    compare_attention,
    measure_attention,
    plot_attention_shift,
)


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  the signature Kedro calls
    """Labelled texts -> base and adapted attention shares -> table and figure."""
    measurement = Pipeline(
        [
            Node(
                func=measure_attention,
                inputs=["model", "labelled_texts", "params:attention_analysis", "params:embedder"],
                outputs="attention",
                name="measure_attention_node",
            )
        ]
    )
    comparison = Pipeline(
        [
            Node(
                func=compare_attention,
                inputs=["base_attention", "adapted_attention"],
                outputs="attention_shift",
                name="compare_attention_node",
            ),
            Node(
                func=plot_attention_shift,
                inputs=["base_attention", "adapted_attention"],
                outputs="attention_shift_figure",
                name="plot_attention_shift_node",
            ),
        ]
    )
    weights = {"base": "base_model", "adapted": "adapter"}
    measurements = (
        Pipeline(
            measurement,
            namespace=namespace,
            inputs={"model": model, "labelled_texts": "labelled_texts"},
            outputs={"attention": f"{namespace}_attention"},
            parameters={"params:attention_analysis", "params:embedder"},
        )
        for namespace, model in weights.items()
    )
    return Pipeline(sum(measurements, start=comparison), tags="attention_analysis")
