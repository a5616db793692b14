from __future__ import annotations

from embedding_adaptation.pipelines import text_clustering
from embedding_adaptation.pipelines.adapt import create_pipeline


def test_texts_and_a_model_are_all_it_needs():
    inputs = create_pipeline().inputs()
    assert {"corpus", "base_model"} <= inputs
    assert not inputs & {"labelled_texts", "trained_adapter", "strategy_comparison"}


def test_texts_are_clustered_after_the_decision_on_what_is_exported():
    nodes = [node.name for node in create_pipeline().nodes]
    assert nodes.index("describe_model_node") < nodes.index("embed_corpus_node")
    assert nodes.index("train_adapter_node") < nodes.index("embed_corpus_node")
    assert {node.name for node in text_clustering.create_pipeline().nodes} <= set(nodes)
