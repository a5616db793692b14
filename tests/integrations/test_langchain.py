from __future__ import annotations

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
def embeddings(tiny_embedder):
    pytest.importorskip("langchain_core", reason="LangChain is not installed: pip install langchain-core")
    from embedding_adaptation.integrations.langchain import AdaptedEmbeddings

    return AdaptedEmbeddings(tiny_embedder, strategy=STRATEGY)


def test_documents_and_queries_have_the_embedders_vectors(embeddings, tiny_embedder):
    expected = tiny_embedder.encode(TEXTS, STRATEGY, progress=False)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[1]), expected[1], atol=1e-5)
    assert embeddings.embed_documents([]) == []


def test_a_vector_store_finds_a_text_by_itself(embeddings):
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    ((found, score),) = store.similarity_search_with_score(TEXTS[2], k=1)
    assert found.page_content == TEXTS[2]
    assert score == pytest.approx(1, abs=1e-4)


def test_a_saved_model_is_loaded_with_its_strategy(embeddings, tiny_embedder, tmp_path):
    tiny_embedder.save(tmp_path / "saved")
    loaded = type(embeddings)(tmp_path / "saved")
    np.testing.assert_allclose(loaded.embed_documents(TEXTS), tiny_embedder.encode(TEXTS, progress=False), atol=1e-2)


def test_what_is_not_a_text_is_refused(embeddings):
    with pytest.raises(TypeError):
        embeddings.embed_documents(["a text", None])


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("langchain_core"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "embedding_adaptation.integrations.langchain", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"embedding-adaptation\[integrations\]"):
        importlib.import_module("embedding_adaptation.integrations.langchain")
