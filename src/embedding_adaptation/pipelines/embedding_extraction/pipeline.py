"""The embedding extraction pipeline: one pipeline under two namespaces."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.embedding_extraction.nodes import extract_embeddings


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  the signature Kedro calls
    """Labelled texts -> base embeddings and adapted embeddings."""
    extraction = Pipeline(
        [
            Node(
                func=extract_embeddings,
                inputs=["model", "labelled_texts", "params:embedder"],
                outputs="embeddings",
                name="extract_embeddings_node",
            )
        ],
        tags="embedding_extraction",
    )
    weights = {"base": "base_model", "adapted": "adapter"}
    return sum(
        (
            Pipeline(
                extraction,
                namespace=namespace,
                inputs={"model": model, "labelled_texts": "labelled_texts"},
                outputs={"embeddings": f"{namespace}_embeddings"},
                parameters={"params:embedder"},
            )
            for namespace, model in weights.items()
        ),
        start=Pipeline([]),
    )
