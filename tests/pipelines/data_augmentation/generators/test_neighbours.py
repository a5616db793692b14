from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.pipelines.data_augmentation.generators import neighbours as module
from embedding_adaptation.pipelines.data_augmentation.generators.neighbours import ensemble_vectors, generate, mutual_neighbours
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, GenerationError, Request
from embedding_adaptation.pipelines.data_augmentation.options import NeighboursOptions


def options(**changes):
    return NeighboursOptions.model_validate({"templates": ["one_word"], "pooling": "last", "layers": -1} | changes)


def unit(count=60, width=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def words(count):
    return [f"{chr(97 + n % 26) * 7} {n * 7919}" for n in range(count)]


def slow_pairs(vectors, k, floor):
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = [{int(j) for j in np.argsort(-row)[:k] if row[j] >= floor} for row in scores]
    return {(i, j) for i in range(len(vectors)) for j in nearest[i] if i < j and i in nearest[j]}


@pytest.mark.parametrize("at_once", [1 << 24, 100])
def test_pairs_are_the_mutual_nearest_neighbours(monkeypatch, at_once):
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", at_once)
    vectors = unit()
    pairs = mutual_neighbours(vectors, words(60), options(min_similarity=0.2))
    assert {(one, other) for one, other, _ in pairs} == slow_pairs(vectors, 3, 0.2)
    assert len(pairs) > 10
    similarities = [similarity for _, _, similarity in pairs]
    assert similarities == sorted(similarities, reverse=True)
    assert min(similarities) >= 0.2


def test_the_cap_keeps_the_most_similar():
    pairs = mutual_neighbours(unit(), words(60), options(min_similarity=-1.0, max_pairs_per_text=1))
    used = [row for one, other, _ in pairs for row in (one, other)]
    assert len(used) == len(set(used))
    everything = mutual_neighbours(unit(), words(60), options(min_similarity=-1.0))
    assert pairs[0] == everything[0]
    assert len(pairs) < len(everything)


def test_near_duplicates_take_no_place_among_the_nearest():
    vectors = unit(6, 4)
    vectors[1] = vectors[0]
    texts = ["where is my card", "where is my card?", "cccc", "dddd", "eeee", "ffff"]
    pairs = {(one, other) for one, other, _ in mutual_neighbours(vectors, texts, options(min_similarity=-1.0))}
    assert (0, 1) not in pairs
    assert any(0 in pair for pair in pairs)
    assert (0, 1) in {(a, b) for a, b, _ in mutual_neighbours(vectors, texts, options(min_similarity=-1.0, near_duplicate=1.0))}


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
    with pytest.raises(GenerationError, match=r"needs more texts than neighbours \+ 1 \(4\) and got 1; give a larger corpus"):
        list(generate([Request.of("1", "only one")], options(), context(tiny_embedder, embedder_options)))
