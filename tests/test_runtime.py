from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from embedding_adaptation import runtime
from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.options import StrategyOptions
from embedding_adaptation.pipelines.contrastive_finetuning.lora import add_adapter
from embedding_adaptation.pipelines.contrastive_finetuning.options import LoraOptions
from embedding_adaptation.runtime import (
    build_strategy,
    fit_after,
    fitted_strategies,
    load_embedder,
    read_known,
    read_once,
    teacher_targets,
)
from embedding_adaptation.vectors.teacher import teacher_vectors


def test_after_processing_is_fitted_only_where_a_strategy_asks_for_it(tiny_weights, embedder_options):
    options = embedder_options()
    embedder = load_embedder(tiny_weights, options)
    plain = {"bare_mean": options.strategies["bare_mean"]}
    (untouched,) = fitted_strategies(embedder, plain, options, lambda: 1 / 0)
    assert untouched.after is None
    centred = StrategyOptions.model_validate({"weights": "base", "template": "bare", "pooling": "mean", "after": {"centre": True}})
    texts = ["the bus", "a house", "water"]
    first, second = fitted_strategies(embedder, plain | {"centred": centred}, options, lambda: texts)
    assert first.after is None
    np.testing.assert_allclose(second.after.mean, embedder.encode(texts, first, progress=False).mean(axis=0), atol=1e-6)


def test_a_strategy_carries_its_template(embedder_options):
    strategy = build_strategy("prompted_last", embedder_options())
    assert strategy.template.suffix == '" means in one word: "'
    assert (strategy.pooling, strategy.normalise) == ("last", True)


def test_the_embedder_follows_the_options(tiny_weights, embedder_options):
    embedder = load_embedder(tiny_weights, embedder_options(max_length=32, batch_tokens=77))
    assert (embedder.max_length, embedder.batch_tokens) == (32, 77)
    assert load_embedder(tiny_weights, embedder_options()).batch_tokens == 1024


TEXTS = [f"{word} number {row}" for row in range(6) for word in ("apple", "train", "cloud")]


def distilled(pooling: str = "last") -> dict[str, StrategyOptions]:
    chosen = {"weights": "base", "template": "one_word", "pooling": pooling, "after": {"distil": True}}
    return {"distilled": StrategyOptions.model_validate(chosen)}


def test_a_distilled_strategy_comes_closer_to_the_teacher(tiny_weights, embedder_options):
    options = embedder_options(teacher={"strategy": "bare_mean", "neighbours": 3})
    embedder = load_embedder(tiny_weights, options)
    (strategy,) = fitted_strategies(embedder, distilled(), options, lambda: TEXTS)
    targets = teacher_targets(embedder, TEXTS, options, progress=False)
    plain, mapped = (embedder.encode(TEXTS, one, progress=False) for one in (build_strategy("prompted_last", options), strategy))
    wanted = targets @ targets.T
    assert np.corrcoef((mapped @ mapped.T).ravel(), wanted.ravel())[0, 1] > np.corrcoef((plain @ plain.T).ravel(), wanted.ravel())[0, 1]


def test_the_teacher_has_base_weights_whatever_the_adapter(tiny_weights, embedder_options):
    options = embedder_options(teacher={"strategy": "bare_mean", "neighbours": 3})
    embedder = load_embedder(tiny_weights, options)
    before = teacher_targets(embedder, TEXTS, options, progress=False)
    add_adapter(embedder, LoraOptions(layers="all"))
    with torch.no_grad():
        for name, weight in embedder.backbone.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    assert not np.allclose(embedder.encode(TEXTS, progress=False), load_embedder(tiny_weights, options).encode(TEXTS, progress=False))
    np.testing.assert_allclose(teacher_targets(embedder, TEXTS, options, progress=False), before, atol=1e-5)


def test_a_teacher_that_is_fitted_as_well_is_read_once(tiny_weights, embedder_options):
    centred = {"weights": "base", "template": "bare", "pooling": "mean", "after": {"centre": True}}
    strategies = embedder_options().model_dump()["strategies"] | {"centred": centred}
    options = embedder_options(strategies=strategies, teacher={"strategy": "centred", "neighbours": 3})
    embedder = load_embedder(tiny_weights, options)
    (alone,) = fitted_strategies(embedder, distilled(), options, lambda: TEXTS)
    read_twice = embedder.tokens_computed
    both = fitted_strategies(embedder, distilled() | {"centred": options.strategies["centred"]}, options, lambda: TEXTS)
    assert embedder.tokens_computed - read_twice == read_twice  # both strategies, and no third reading
    for name, array in alone.after.arrays().items():
        np.testing.assert_allclose(np.abs(both[0].after.arrays()[name]), np.abs(array), atol=1e-4)
    # Under the name of the teacher, another strategy is no teacher.
    other = {"centred": StrategyOptions.model_validate(centred | {"pooling": "last"})}
    mistaken = fitted_strategies(embedder, distilled() | other, options, lambda: TEXTS)
    np.testing.assert_allclose(np.abs(mistaken[0].after.matrix), np.abs(alone.after.matrix), atol=1e-4)


def adapted_embedder(tiny_weights, options):
    embedder = load_embedder(tiny_weights, options)
    add_adapter(embedder, LoraOptions(layers="all"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in embedder.backbone.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    return embedder


def test_adapted_strategies_learn_from_the_adapted_weights_too(tiny_weights, embedder_options):
    options = embedder_options(teacher={"strategy": "bare_mean", "neighbours": 3})
    embedder = adapted_embedder(tiny_weights, options)
    chosen = {"distilled": distilled()["distilled"].model_copy(update={"weights": "adapted"})}
    (strategy,) = fitted_strategies(embedder, chosen, options, lambda: TEXTS)
    of_adapted = embedder.encode(TEXTS, build_strategy("bare_mean", options), progress=False)
    of_base = load_embedder(tiny_weights, options).encode(TEXTS, build_strategy("bare_mean", options), progress=False)
    expected = teacher_vectors(np.concatenate([of_base, of_adapted], axis=1), TEXTS, neighbours=3, rounds=2)
    targets = teacher_targets(embedder, TEXTS, options, weights="adapted", progress=False)
    np.testing.assert_allclose(targets @ targets.T, expected @ expected.T, atol=1e-5)
    plain = embedder.encode(TEXTS, build_strategy("prompted_last", options), progress=False)
    by_hand = fit_after(plain, chosen["distilled"].after, options, 1, expected)
    one, other = (after.apply(plain) for after in (strategy.after, by_hand))
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-4)


def test_an_adapted_teacher_that_is_fitted_as_well_is_read_once_and_a_base_one_is_not_taken_for_it(tiny_weights, embedder_options):
    centred = {"weights": "base", "template": "bare", "pooling": "mean", "after": {"centre": True}}
    strategies = embedder_options().model_dump()["strategies"] | {"centred": centred, "centred_adapted": centred | {"weights": "adapted"}}
    options = embedder_options(strategies=strategies, teacher={"strategy": "centred", "neighbours": 3})
    embedder = adapted_embedder(tiny_weights, options)
    head = {"distilled": distilled()["distilled"].model_copy(update={"weights": "adapted"})}
    (alone,) = fitted_strategies(embedder, head, options, lambda: TEXTS)
    both = embedder.tokens_computed
    embedder.encode(TEXTS, build_strategy("centred", options), progress=False)
    teachers = embedder.tokens_computed - both
    for teacher, more in (("centred_adapted", 0), ("centred", teachers)):
        before = embedder.tokens_computed
        fitted = fitted_strategies(embedder, head | {teacher: options.strategies[teacher]}, options, lambda: TEXTS)
        assert embedder.tokens_computed - before == both + more
        np.testing.assert_allclose(np.abs(fitted[0].after.matrix), np.abs(alone.after.matrix), atol=1e-3)


def test_no_text_is_read_twice_by_the_same_weights_under_the_same_strategy(tiny_weights, embedder_options, store):
    options = embedder_options()
    strategies = [build_strategy(name, options) for name in ("bare_mean", "prompted_last")]
    embedder = load_embedder(tiny_weights, options)
    expected = embedder.encode_strategies(TEXTS, strategies, progress=False)
    read_once(embedder, TEXTS[:3], strategies[:1], store, progress=False)
    before = embedder.tokens_computed
    vectors = read_once(embedder, [*TEXTS, TEXTS[0]], strategies, store, progress=False)
    assert embedder.tokens_computed > before
    for name, matrix in expected.items():
        np.testing.assert_allclose(vectors[name], matrix[[*range(len(TEXTS)), 0]], atol=1e-5)
    before = embedder.tokens_computed
    read_once(embedder, TEXTS, strategies, store, progress=False)
    assert embedder.tokens_computed == before


def test_vectors_of_base_and_adapted_weights_are_kept_apart(tiny_weights, tiny_adapted, embedder_options, store):
    options = embedder_options()
    strategy = build_strategy("prompted_last", options)
    adapted = load_embedder(tiny_adapted, options)
    tuned = read_once(adapted, TEXTS, [strategy], store, progress=False)["prompted_last"]
    plain = read_once(adapted, TEXTS, [strategy], store, without_adapter=True, progress=False)["prompted_last"]
    assert np.abs(tuned - plain).max() > 1e-4
    base = load_embedder(tiny_weights, options)
    before = base.tokens_computed
    np.testing.assert_array_equal(read_once(base, TEXTS, [strategy], store, progress=False)["prompted_last"], plain)
    assert base.tokens_computed == before  # of the same base weights, read with the adapter switched off
    np.testing.assert_allclose(base.encode(TEXTS, strategy, progress=False), plain, atol=1e-5)


def test_weights_that_exist_in_memory_only_leave_nothing_behind_under_another_name(tiny_weights, embedder_options, store):
    options = embedder_options()
    embedder = adapted_embedder(tiny_weights, options)
    strategy = build_strategy("prompted_last", options)
    assert embedder.identity_without_adapter is None
    plain = read_once(embedder, TEXTS, [strategy], store, without_adapter=True, progress=False)["prompted_last"]
    assert not store.folder.exists()
    np.testing.assert_allclose(plain, load_embedder(tiny_weights, options).encode(TEXTS, strategy, progress=False), atol=1e-5)


def test_vectors_are_processed_in_blocks_as_they_would_be_at_once(monkeypatch, embedder_options):
    consensus = {"weights": "base", "template": ["one_word", "bare"], "combine": "concatenate", "pooling": "last", "after": {"centre": 0.7}}
    options = embedder_options(strategies=embedder_options().model_dump()["strategies"] | {"consensus": consensus})
    vectors = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    whole = runtime.processed_vectors(vectors, options.strategies["consensus"], options)
    monkeypatch.setattr(runtime, "_FINISHED_AT_ONCE", 7)
    np.testing.assert_array_equal(runtime.processed_vectors(vectors, options.strategies["consensus"], options), whole)


def test_what_has_been_read_is_kept_if_the_rest_fails(monkeypatch, tmp_path, tiny_embedder, embedder_options):
    monkeypatch.setattr(runtime, "_READ_AT_ONCE", 3)
    memory, strategy = EmbeddingStore(tmp_path), embedder_options().strategy("one", embedder_options().strategies[embedder_options().adapt])
    texts = [f"the bus number {n} is late" for n in range(8)]
    encode, asked = tiny_embedder.encode_strategies, []

    def failing(block, *rest, **options):
        asked.append(len(block))
        if len(asked) == 3:
            raise RuntimeError("out of power")
        return encode(block, *rest, **options)

    monkeypatch.setattr(tiny_embedder, "encode_strategies", failing)
    with pytest.raises(RuntimeError, match="out of power"):
        runtime.read_once(tiny_embedder, texts, [strategy], memory, progress=False)
    monkeypatch.setattr(tiny_embedder, "encode_strategies", encode)
    vectors = runtime.read_once(tiny_embedder, texts, [strategy], EmbeddingStore(tmp_path), progress=False)["one"]
    assert asked == [3, 3, 2]
    assert len(EmbeddingStore(tmp_path).missing(tiny_embedder.vectors_identity(strategy), texts)) == 0
    np.testing.assert_allclose(vectors, encode(texts, [strategy], progress=False)["one"], atol=1e-5)


@pytest.mark.parametrize("known", [0, 7, len(TEXTS)])
def test_what_is_known_is_not_read_again_and_gives_the_same_vectors(tiny_weights, embedder_options, store, known, monkeypatch):
    options = embedder_options()
    embedder = load_embedder(tiny_weights, options)
    chosen = {
        "centred": StrategyOptions.model_validate({"weights": "base", "template": "bare", "pooling": "mean", "after": {"centre": True}})
    }
    (strategy,) = fitted_strategies(embedder, chosen, options, lambda: TEXTS)
    wanted = [*TEXTS[::-1], TEXTS[3]]
    expected = embedder.encode(wanted, strategy, progress=False)
    read_once(embedder, TEXTS[:known], [replace(strategy, after=None)], store, progress=False)
    read, encode = [], embedder.encode
    monkeypatch.setattr(embedder, "encode", lambda texts, *rest, **options: read.extend(texts) or encode(texts, *rest, **options))
    vectors = read_known(embedder, wanted, strategy, store, progress=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert set(read) == set(TEXTS[known:])
