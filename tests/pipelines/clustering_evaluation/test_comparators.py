from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation import paths
from embedding_adaptation.pipelines.clustering_evaluation.comparators import (
    SentenceModel,
    random_source,
    tfidf_source,
)
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.options import ModelOptions

TEXTS = [f"the {animal} eats {food} today" for animal in ("cat", "dog", "bird") for food in ("bread", "rice", "corn")]


def test_random_vectors_are_unit_vectors_that_follow_from_seed_and_text():
    vectors = random_source(3)(["a", "b", "a"])
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    assert abs(vectors[0] @ vectors[1]) < 0.5
    np.testing.assert_array_equal(random_source(3)(["b"])[0], vectors[1])
    assert not np.array_equal(random_source(4)(["b"])[0], vectors[1])


def test_counts_are_fitted_once_a_task():
    source = tfidf_source(4, 0)
    whole = source([*TEXTS, TEXTS[0]])
    np.testing.assert_array_equal(source(TEXTS[3:5]), whole[3:5])
    assert source(["another text", "and one more"]).shape[0] == 2


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory):
    """A sentence-transformers folder, made on the spot: a bag of a few words."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "query", "the", "cat", "dog", "bird", "eats", "bread", "rice", "corn", "today"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("st") / "bag"
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=6)], device="cpu").save(str(folder))
    return folder


def test_a_model_of_sentence_transformers_is_known_by_its_files_and_prompt(sentence_model):
    from sentence_transformers import SentenceTransformer

    plain = SentenceModel("bag", ModelOptions(model=str(sentence_model)), "cpu")
    asked = SentenceModel("bag", ModelOptions(model=str(sentence_model), prompt="query "), "cpu")
    expected = SentenceTransformer(str(sentence_model), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(plain.encode(TEXTS), expected, rtol=1e-6)
    assert not np.allclose(asked.encode(TEXTS), expected)
    assert plain.identity != asked.identity
    before = plain.identity
    (sentence_model / "modules.json").write_text((sentence_model / "modules.json").read_text() + " ")
    assert SentenceModel("bag", ModelOptions(model=str(sentence_model)), "cpu").identity != before


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{folder}", "has no modules.json; give a folder written by sentence-transformers"),
        ("nothing", "neither a folder nor a Hub id"),
        ("team/none@main", r"cannot download 'team/none@main' .*not in the local cache, and there is no folder .*/team/none"),
    ],
)
def test_a_model_that_is_not_there_is_explained(tmp_path, model, message):
    with pytest.raises(EvaluationError, match=f"comparators.models.other: .*{message}"):
        SentenceModel("other", ModelOptions(model=model.format(folder=tmp_path)), "cpu")


def test_a_relative_folder_starts_at_the_projects_root(sentence_model, tmp_path, monkeypatch):
    monkeypatch.setenv(paths._ROOT, str(sentence_model.parents[1]))
    monkeypatch.chdir(tmp_path)
    given = f"{sentence_model.parent.name}/{sentence_model.name}"
    assert SentenceModel("bag", ModelOptions(model=given), "cpu").folder == sentence_model
