from __future__ import annotations

import asyncio
import builtins
import importlib
import sys

import numpy as np
import pytest

from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

TEXTS = ["the bus is late", "a house on the street", "water in the garden"]
STRATEGY = Strategy("mine", PromptTemplate("mine", "{text} is"), "mean")


@pytest.fixture
def embedding(tiny_embedder):
    pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed: pip install llama-index-core")
    from embedding_adaptation.integrations.llama_index import AdaptedEmbedding

    return AdaptedEmbedding(tiny_embedder, strategy=STRATEGY)


def test_texts_and_queries_have_the_embedders_vectors(embedding, tiny_embedder):
    expected = tiny_embedder.encode(TEXTS, STRATEGY, progress=False)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[0]), expected[0], atol=1e-5)
    np.testing.assert_allclose(embedding.get_query_embedding(TEXTS[1]), expected[1], atol=1e-5)
    np.testing.assert_allclose(asyncio.run(embedding.aget_query_embedding(TEXTS[1])), expected[1], atol=1e-5)


@pytest.mark.slow
def test_an_index_finds_a_text_by_itself(embedding):
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=embedding)
    (found,) = index.as_retriever(similarity_top_k=1).retrieve(TEXTS[2])
    assert found.node.get_content() == TEXTS[2]
    assert found.score == pytest.approx(1, abs=1e-4)


def test_fields_of_llama_index_can_be_set(embedding, tiny_embedder):
    assert embedding.model_name == "mine"
    assert type(embedding)(tiny_embedder, embed_batch_size=8).embed_batch_size == 8


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("llama_index"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "embedding_adaptation.integrations.llama_index", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"embedding-adaptation\[integrations\]"):
        importlib.import_module("embedding_adaptation.integrations.llama_index")
