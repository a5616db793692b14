from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.embedder.transformer import TextEmbedding

TEXTS = ["the bus is late", "a bus", "the house", "a house on the street", "water", "garden", "letter", "book"]


@pytest.fixture
def embedding(tiny_weights):
    return TextEmbedding(str(tiny_weights.base), device="cpu", dtype="float32", template="{text} is", layers=-2)


def test_it_embeds_as_the_embedder_does(embedding, tiny_embedder):
    strategy = Strategy("a", PromptTemplate("t", "{text} is"), "last", (-2,))
    np.testing.assert_allclose(embedding.fit_transform(TEXTS), tiny_embedder.encode(TEXTS, strategy, progress=False), atol=1e-5)
    assert list(embedding.get_feature_names_out())[-1] == "embedding31"


def test_it_is_a_step_of_a_pipeline(embedding):
    assert len(set(make_pipeline(embedding, KMeans(3, n_init=1, random_state=0)).fit_predict(TEXTS))) == 3
    scores = cross_val_score(make_pipeline(embedding, LogisticRegression()), TEXTS, [0, 0, 1, 1, 0, 1, 0, 1], cv=2)
    assert scores.shape == (2,)


def test_after_processing_is_fitted_on_the_texts_given(embedding):
    vectors = embedding.set_params(remove_components=1, dimensions=8, normalise=False).fit_transform(TEXTS)
    assert vectors.shape == (8, 8)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-4)
    assert len(embedding.get_feature_names_out()) == 8


def test_parameters_are_cloned_and_nothing_else(embedding):
    embedding.fit(TEXTS)
    copied = clone(embedding)
    assert copied.get_params() == embedding.get_params()
    with pytest.raises(NotFittedError):
        copied.transform(TEXTS)


def test_a_saved_embedder_brings_its_strategy(tiny_embedder, tmp_path):
    tiny_embedder.strategy = Strategy("mine", PromptTemplate("t", "{text} is"), "mean", (1,))
    tiny_embedder.save(tmp_path / "saved")
    vectors = TextEmbedding(tmp_path / "saved", device="cpu", dtype="float32").fit(TEXTS).transform(TEXTS)
    np.testing.assert_allclose(vectors, tiny_embedder.encode(TEXTS, progress=False), atol=1e-6)
    assert isinstance(Embedder.load(tmp_path / "saved").strategy, Strategy)


def test_a_fitted_one_is_not_pickled(embedding):
    pickle.dumps(embedding)
    with pytest.raises(TypeError, match=r"save it with embedder_\.save"):
        pickle.dumps(embedding.fit(TEXTS))
