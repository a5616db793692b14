from __future__ import annotations

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks

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


LABELS = [0, 0, 1, 1, 0, 1, 0, 1]
GRID = {"embed__template": ["{text} is", "about {text}:"], "embed__remove_components": [0, 1], "classify__C": [0.1, 1.0]}


@pytest.fixture
def counted(monkeypatch):
    """How often a model was loaded, and the texts that were embedded."""
    loads, texts = [], []
    load, encode = Embedder.load, Embedder.encode

    def counting_load(*args, **kwargs):
        loads.append(args)
        return load(*args, **kwargs)

    def counting_encode(self, given, *args, **kwargs):
        texts.extend(given)
        return encode(self, given, *args, **kwargs)

    monkeypatch.setattr(Embedder, "load", counting_load)
    monkeypatch.setattr(Embedder, "encode", counting_encode)
    return loads, texts


def search(embedding, **settings):
    steps = Pipeline([("embed", embedding.set_params(**settings)), ("classify", LogisticRegression())])
    return GridSearchCV(steps, GRID, cv=2).fit(TEXTS, LABELS)


def test_a_grid_search_loads_the_model_once_and_embeds_each_text_once_per_template(embedding, counted):
    loads, texts = counted
    search(embedding)
    assert len(loads) == 1
    assert sorted(texts) == sorted(2 * TEXTS)


def test_a_grid_search_gives_the_scores_it_gives_without_anything_shared(embedding, counted, monkeypatch):
    loads, texts = counted
    shared = search(embedding)
    monkeypatch.delattr(TextEmbedding, "__sklearn_clone__")
    slow = search(clone(embedding), cache_size=0)
    assert len(loads) > 16
    assert len(texts) > 16 * len(TEXTS)
    for name in ("mean_test_score", "split0_test_score", "split1_test_score"):
        np.testing.assert_array_equal(shared.cv_results_[name], slow.cv_results_[name])
    assert shared.best_params_ == slow.best_params_
    np.testing.assert_allclose(shared.predict_proba(TEXTS), slow.predict_proba(TEXTS), atol=1e-5)


def test_what_is_remembered_is_what_would_be_computed(embedding, counted):
    _, texts = counted
    embedding.set_params(remove_components=1).fit(TEXTS[:5])
    mixed = [*TEXTS[3:], TEXTS[3], "one more text"]
    found = embedding.transform(mixed)
    assert texts == [*TEXTS[:5], *TEXTS[5:], "one more text"]
    np.testing.assert_allclose(found, embedding.embedder_.encode(mixed, progress=False), atol=1e-5)
    assert embedding.transform([]).shape == (0, 32)


def test_no_more_vectors_are_kept_than_asked_for(embedding, counted):
    _, texts = counted
    embedding.set_params(cache_size=2).fit(TEXTS)
    embedding.transform(TEXTS)
    embedding.transform([TEXTS[-1], TEXTS[-2]])
    assert texts == TEXTS
    embedding.transform([TEXTS[0]])
    embedding.transform([TEXTS[-2]])
    assert texts == [*TEXTS, TEXTS[0]]
    embedding.transform([TEXTS[-1]])
    assert texts == [*TEXTS, TEXTS[0], TEXTS[-1]]


def test_another_model_or_length_is_loaded_and_gives_its_own_vectors(embedding, counted):
    loads, _ = counted
    first = embedding.fit_transform(TEXTS)
    clone(embedding).fit(TEXTS)
    assert len(loads) == 1
    other = clone(embedding).set_params(max_length=32).fit(["long " * 30])
    assert len(loads) == 2
    assert other.embedder_.max_length == 32
    np.testing.assert_allclose(embedding.transform(TEXTS), first, atol=1e-5)  # one that was fitted before keeps its own model


def test_a_folder_that_was_written_anew_is_loaded_anew(tiny_embedder, tmp_path, counted):
    loads, _ = counted
    tiny_embedder.strategy = Strategy("mine", PromptTemplate("t", "{text} is"), "mean", (1,))
    tiny_embedder.save(tmp_path / "saved")
    step = TextEmbedding(tmp_path / "saved", device="cpu", dtype="float32")
    first = step.fit_transform(TEXTS)
    shutil.rmtree(tmp_path / "saved")
    tiny_embedder.strategy = Strategy("mine", PromptTemplate("t", "so {text} is"), "mean", (1,))
    tiny_embedder.save(tmp_path / "saved")
    second = clone(step).fit_transform(TEXTS)
    assert len(loads) == 2
    np.testing.assert_allclose(second, tiny_embedder.encode(TEXTS, progress=False), atol=1e-5)
    assert np.abs(first - second).max() > 1e-3


def test_clones_with_other_templates_do_not_change_one_another(embedding):
    one = clone(embedding).fit(TEXTS)
    before = one.transform(TEXTS)
    clone(embedding).set_params(template="about {text}:", layers=-1).fit(TEXTS).transform(TEXTS)
    np.testing.assert_array_equal(one.transform(TEXTS), before)


def test_it_takes_one_column_of_a_table(embedding):
    table = pd.DataFrame({"text": TEXTS, "length": [len(text) for text in TEXTS]})
    columns = ColumnTransformer([("text", embedding, "text")], remainder="passthrough").set_output(transform="pandas")
    found = columns.fit_transform(table)
    assert list(found.columns[[0, -1]]) == ["text__embedding0", "remainder__length"]
    np.testing.assert_allclose(found.iloc[:, :-1], clone(embedding).fit_transform(TEXTS), atol=1e-5)


@pytest.mark.parametrize("wrong", [pd.DataFrame({"text": TEXTS}), np.array([TEXTS])])
def test_a_table_is_refused_before_the_model_is_loaded(embedding, wrong, counted):
    with pytest.raises(TypeError, match=r"X has 2 dimensions .* select the column of the texts"):
        embedding.fit(wrong)
    assert counted[0] == []
    embedding.fit(TEXTS)
    with pytest.raises(TypeError, match="X has 2 dimensions"):
        embedding.transform(wrong)


# Those of check_estimator that do not give numbers to the estimator.
@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable", "check_estimator_repr",
        "check_estimator_tags_renamed", "check_get_params_invariance", "check_mixin_order", "check_no_attributes_set_in_init",
        "check_parameters_default_constructible", "check_set_params", "check_valid_tag_types",
    ],
)  # fmt: skip
def test_it_keeps_the_rules_of_scikit_learn(embedding, check):
    getattr(estimator_checks, check)("TextEmbedding", embedding)
