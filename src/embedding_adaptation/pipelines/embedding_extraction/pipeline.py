"""The embedding extraction pipeline: one pipeline under two namespaces."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from embedding_adaptation.pipelines.embedding_extraction.nodes import extract_embeddings


def create_pipeline(**kwargs: object) -> Pipeline:  # noqa: ARG001  the signature Kedro calls
    """Labelled texts -> base embeddings and adapted embeddings, with the after-processing fitted for them."""
    extraction = Pipeline(
        [
            Node(
                func=extract_embeddings,
                inputs=["model", "labelled_texts", "corpus", "embedding_store", "params:embedding_extraction", "params:embedder"],
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
                inputs={"model": model} | {name: name for name in ("labelled_texts", "corpus", "embedding_store")},
                outputs={"embeddings": f"{namespace}_embeddings"},
                parameters={"params:embedder", "params:embedding_extraction"},
            )
            for namespace, model in weights.items()
        ),
        start=Pipeline([]),
    )
