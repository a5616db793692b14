"""The attention analysis pipeline: the same measurement in two namespaces, and their comparison."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.attention_analysis.nodes import (
    compare_attention,
    compare_with_occlusion,
    compare_words,
    measure_attention,
    plot_faithfulness,
    plot_layers,
    plot_words,
    record_attention,
)

_MEASURED = ("attention_rows", "occlusion", "attention", "word_attention")


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  the signature Kedro calls
    """Texts -> base and adapted attention -> tables, figures and a page."""
    measurement = Pipeline(
        [
            Node(
                func=record_attention,
                inputs=["model", "base_model", "attention_texts", "params:attention_analysis", "params:embedder"],
                outputs=["attention_rows", "occlusion"],
                name="record_attention_node",
            ),
            Node(
                func=measure_attention,
                inputs=["attention_rows", "params:attention_analysis"],
                outputs=["attention", "word_attention"],
                name="measure_attention_node",
            ),
        ]
    )
    comparison = Pipeline(
        [
            Node(
                func=compare_attention,
                inputs=["base_attention", "adapted_attention", "params:attention_analysis"],
                outputs=["attention_shift", "attention_summary", "attention_heads"],
                name="compare_attention_node",
            ),
            Node(
                func=compare_words,
                inputs=["base_word_attention", "adapted_word_attention", "params:attention_analysis"],
                outputs="attention_words",
                name="compare_words_node",
            ),
            Node(
                func=compare_with_occlusion,
                inputs=[
                    "base_attention_rows",
                    "adapted_attention_rows",
                    "base_occlusion",
                    "adapted_occlusion",
                    "params:attention_analysis",
                ],
                outputs="attention_faithfulness",
                name="compare_with_occlusion_node",
            ),
            Node(
                func=plot_layers,
                inputs=["attention_shift", "attention_heads"],
                outputs=["attention_shift_figure", "attention_span_map", "attention_head_map"],
                name="plot_layers_node",
            ),
            Node(
                func=plot_words,
                inputs=[
                    "base_word_attention",
                    "adapted_word_attention",
                    "attention_words",
                    "params:attention_analysis",
                    "params:embedder",
                ],
                outputs=["attention_examples", "attention_words_figure", "attention_page"],
                name="plot_words_node",
            ),
            Node(
                func=plot_faithfulness,
                inputs="attention_faithfulness",
                outputs="attention_faithfulness_figure",
                name="plot_faithfulness_node",
            ),
        ]
    )
    weights = {"base": "base_model", "adapted": "adapter"}
    measurements = (
        Pipeline(
            measurement,
            namespace=namespace,
            inputs={"model": model, "base_model": "base_model", "attention_texts": "attention_texts"},
            outputs={name: f"{namespace}_{name}" for name in _MEASURED},
            parameters={"params:attention_analysis", "params:embedder"},
        )
        for namespace, model in weights.items()
    )
    return Pipeline(sum(measurements, start=comparison), tags="attention_analysis")
