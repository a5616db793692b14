from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.pipelines.data_augmentation.generators.neighbours import ensemble_vectors, generate
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, GenerationError, Request
from embedding_adaptation.pipelines.data_augmentation.options import NeighboursOptions


def options(**changes):
    return NeighboursOptions.model_validate({"templates": ["one_word"], "pooling": "last", "layers": -1} | changes)


def unit(count=60, width=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def words(count):
    return [f"{chr(97 + n % 26) * 7} {n * 7919}" for n in range(count)]


def context(tiny_embedder, embedder_options):
    return Context(0, None, embedder_options(), lambda: tiny_embedder, progress=False)


def test_the_ensemble_is_the_mean_of_the_strategies_similarities(tiny_embedder, embedder_options):
    texts = [f"the bus number {n} is late" for n in range(8)]
    chosen = options(templates=["one_word", "bare"])
    vectors = ensemble_vectors(texts, chosen, context(tiny_embedder, embedder_options))
    means = []
    for name in chosen.templates:
        part = ensemble_vectors(texts, options(templates=[name]), context(tiny_embedder, embedder_options))
        assert np.allclose(np.linalg.norm(part, axis=1), 1.0, atol=1e-5)
        means.append(part @ part.T)
    assert np.allclose(vectors @ vectors.T, np.mean(means, axis=0), atol=1e-5)


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
