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
def backend(tiny_embedder):
    pytest.importorskip("bertopic", reason="BERTopic is not installed: pip install bertopic")
    from embedding_adaptation.integrations.bertopic import AdaptedBackend

    return AdaptedBackend(tiny_embedder, strategy=STRATEGY)


def test_documents_and_words_have_the_embedders_vectors(backend, tiny_embedder):
    expected = tiny_embedder.encode(TEXTS, STRATEGY, progress=False)
    np.testing.assert_allclose(backend.embed_documents(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(backend.embed_words(np.array(TEXTS)), expected, atol=1e-5)


def test_a_saved_model_is_loaded_with_its_strategy(backend, tiny_embedder, tmp_path):
    tiny_embedder.save(tmp_path / "saved")
    loaded = type(backend)(tmp_path / "saved")
    np.testing.assert_allclose(loaded.embed(TEXTS), tiny_embedder.encode(TEXTS, progress=False), atol=1e-2)


@pytest.mark.slow
def test_bertopic_groups_and_places_texts_by_the_embedders_vectors(backend):
    from bertopic import BERTopic
    from bertopic.dimensionality import BaseDimensionalityReduction
    from sklearn.cluster import KMeans

    texts = [f"{start} {number}" for start in ("the bus is late on day", "a house with many rooms and number") for number in range(10)]
    clusters = KMeans(2, n_init=3, random_state=0)
    model = BERTopic(embedding_model=backend, umap_model=BaseDimensionalityReduction(), hdbscan_model=clusters)
    topics, _ = model.fit_transform(texts)
    expected = KMeans(2, n_init=3, random_state=0).fit_predict(backend.embed(texts))
    same = np.equal.outer(np.array(topics), np.array(topics))
    np.testing.assert_array_equal(same, np.equal.outer(expected, expected))
    found, _ = model.transform(texts)
    np.testing.assert_array_equal(np.array(found), np.array(topics))
    given = BERTopic(umap_model=BaseDimensionalityReduction(), hdbscan_model=KMeans(2, n_init=3, random_state=0))
    assert given.fit_transform(texts, backend.embed(texts))[0] == topics


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("bertopic"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "embedding_adaptation.integrations.bertopic", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"embedding-adaptation\[integrations\]"):
        importlib.import_module("embedding_adaptation.integrations.bertopic")
