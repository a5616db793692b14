from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation import memory
from embedding_adaptation.memory import OutOfMemoryError
from embedding_adaptation.options import StrategyOptions
from embedding_adaptation.pipelines.data_augmentation.candidates import folder_name
from embedding_adaptation.pipelines.data_augmentation.generators.neighbours import generate, strategy_vectors
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, GenerationError, Request
from embedding_adaptation.pipelines.data_augmentation.options import NeighboursOptions
from embedding_adaptation.runtime import fitted_strategies
from embedding_adaptation.texts.stream import TextStream

ONE = {"weights": "base", "template": "one_word", "pooling": "last"}
CONSENSUS = ONE | {"template": ["one_word", "bare"], "combine": "concatenate", "after": {"centre": True}}


def options(**changes):
    return NeighboursOptions.model_validate({"strategy": "prompted_last"} | changes)


def unit(count=60, width=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def words(count):
    return [f"{chr(97 + n % 26) * 7} {n * 7919}" for n in range(count)]


def context(tiny_embedder, embedder_options):
    strategies = embedder_options().model_dump()["strategies"] | {"consensus": CONSENSUS}
    return Context(0, None, embedder_options(strategies=strategies), lambda: tiny_embedder, progress=False)


def test_similarity_is_the_mean_over_the_templates_each_centred_on_the_corpus(tiny_embedder, embedder_options):
    texts = [f"the bus number {n} is late" for n in range(8)]
    vectors = strategy_vectors(texts, options(strategy="consensus"), context(tiny_embedder, embedder_options))
    means = []
    for template in CONSENSUS["template"]:
        part = tiny_embedder.encode(texts, embedder_options().strategy("one", StrategyOptions(**ONE | {"template": template})))
        part -= part.mean(axis=0)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        means.append(part @ part.T)
    np.testing.assert_allclose(vectors @ vectors.T, np.mean(means, axis=0), atol=1e-4)


def test_vectors_have_unit_length_even_if_the_strategy_leaves_them_long(tiny_embedder, embedder_options):
    strategies = {"long": ONE | {"normalise": False}, "adapted": ONE | {"weights": "adapted"}}
    made = Context(0, None, embedder_options(strategies=strategies, adapt="adapted"), lambda: tiny_embedder, progress=False)
    vectors = strategy_vectors(["the bus", "the house"], options(strategy="long"), made)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_a_distilled_strategy_is_fitted_to_its_teacher(tiny_embedder, embedder_options):
    strategies = {"one": ONE, "distilled": ONE | {"after": {"distil": True}}, "adapted": ONE | {"weights": "adapted"}}
    given = embedder_options(strategies=strategies, adapt="adapted", teacher={"strategy": "one", "neighbours": 3})
    texts = [f"the {word} number {n} is late" for n in range(5) for word in ("bus", "letter", "council")]
    vectors = strategy_vectors(texts, options(strategy="distilled"), Context(0, None, given, lambda: tiny_embedder, progress=False))
    (fitted,) = fitted_strategies(tiny_embedder, {"distilled": given.strategies["distilled"]}, given, lambda: texts)
    np.testing.assert_allclose(vectors, tiny_embedder.encode(texts, fitted, progress=False), atol=1e-4)


def test_pairs_name_both_texts_and_a_weight_takes_a_share(tiny_embedder, embedder_options):
    requests = [Request.of(str(n), f"{word} in the {place}") for n, (word, place) in enumerate(
        (word, place) for word in ("bus", "water", "school", "letter", "street") for place in ("house", "garden", "library", "council")
    )]  # fmt: skip
    made = list(generate(requests, options(min_similarity=-1.0), context(tiny_embedder, embedder_options)))
    by_id = {request.source_id: request.source_text for request in requests}
    assert made
    for pair in made:
        assert by_id[pair.source_id] == pair.source_text != pair.generated_text == by_id[pair.other_id]
    assert len({pair.key for pair in made}) == len(made)
    assert [pair.own_score for pair in made] == sorted((pair.own_score for pair in made), reverse=True)
    some = list(generate(requests, options(min_similarity=-1.0, weight=0.5), context(tiny_embedder, embedder_options)))
    assert 0 < len(some) < len(made)
    assert set(some) <= set(made)


def test_too_few_texts_are_refused(tiny_embedder, embedder_options):
    with pytest.raises(GenerationError, match=r"needs at least 5 texts \(neighbours \+ 2\), but there are 1; give a larger corpus"):
        list(generate([Request.of("1", "only one")], options(), context(tiny_embedder, embedder_options)))


def test_too_few_texts_for_the_after_processing_are_refused(tiny_embedder, embedder_options):
    strategies = {"cut": CONSENSUS | {"after": {"centre": True, "dimensions": 40}}, "adapted": ONE | {"weights": "adapted"}}
    made = Context(0, None, embedder_options(strategies=strategies, adapt="adapted"), lambda: tiny_embedder, progress=False)
    requests = [Request.of(str(n), f"the bus number {n} is late") for n in range(8)]
    with pytest.raises(GenerationError, match="generator 'neighbours' cannot use strategy 'cut': after-processing cannot keep 40"):
        list(generate(requests, options(strategy="cut"), made))


def test_memory_is_checked_before_the_model_reads_anything(monkeypatch, tiny_embedder, embedder_options):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    monkeypatch.setattr("embedding_adaptation.pipelines.data_augmentation.generators.neighbours.strategy_vectors", None)
    requests = [Request.of(str(n), f"the bus number {n}") for n in range(20)]
    with pytest.raises(OutOfMemoryError, match=r"the neighbours of 20 texts would take .* lower data_augmentation.cleaning.max_texts"):
        list(generate(requests, options(), context(tiny_embedder, embedder_options)))


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"search": "exact", "exact_up_to": 1}, True),
        ({"exact_up_to": 3}, True),
        ({"exact_up_to": 2}, False),
        ({"search": "approximate"}, False),
    ],
)
def test_candidates_are_others_only_where_the_search_comes_to_something_else(tiny_embedder, embedder_options, changes, same):
    made = context(tiny_embedder, embedder_options)
    made = Context(0, SimpleNamespace(card=SimpleNamespace(sha256="x")), made.embedder_options, made.embedder)
    corpus = TextStream.of(pd.DataFrame({"id": ["1", "2", "3"], "text": ["a bus", "a house", "a garden"]}))
    names = {folder_name("neighbours", options(strategy="consensus", **one), corpus, made) for one in ({}, changes)}
    assert (len(names) == 1) == same
