from __future__ import annotations

import dataclasses
import logging

import pandas as pd
import pytest
from pydantic import ValidationError

from embedding_adaptation.pipelines.data_augmentation import pair_selection
from embedding_adaptation.pipelines.data_augmentation.budget import BUDGET, Given, Rounds, wanted_pairs
from embedding_adaptation.pipelines.data_augmentation.candidates import MissingBudgetError, budgets, generate, make_context, plan, present
from embedding_adaptation.pipelines.data_augmentation.generators import rewrite
from embedding_adaptation.pipelines.data_augmentation.generators.request import Candidate
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions
from embedding_adaptation.texts.stream import TextStream

COUNT = 40
TABLE = pd.DataFrame({"id": [str(n) for n in range(COUNT)], "text": [f"the bus number {n} is late in the street" for n in range(COUNT)]})
CORPUS = TextStream.of(TABLE, 7)
STYLES = {name: {"instruction": name + " {text}"} for name in ("short", "simple")}
REWRITE = {"system_prompt": "rewrite", "styles": STYLES, "max_new_tokens": 12, "temperature": 1.0}
NEIGHBOURS = {"strategy": "prompted_last", "min_similarity": -1, "near_duplicate": 1}
OFF = dict.fromkeys(("cut_off", "length", "language", "question", "repetition", "new_words", "facts", "drift", "copy", "duplicate"))


def options(generators=None, **changes):
    values = {"cleaning": {}, "generators": generators or {"rewrite": REWRITE}, "filters": OFF, "shard_size": 6, "seed": 0}
    return AugmentationOptions.model_validate(values | changes)


@pytest.fixture
def made(tiny_weights, embedder_options):
    """Candidates of a run, with those that were there before."""

    def make(chosen, trained=None, done=None):
        context = make_context(tiny_weights, chosen, embedder_options())
        shards = dict(done or {})
        for shard in generate(CORPUS, done or {}, chosen, context, trained):
            shards |= shard
        return shards

    return make


@pytest.fixture
def rows(tiny_weights, embedder_options):
    """The candidates that count, by key."""

    def found(shards, chosen):
        context = make_context(tiny_weights, chosen, embedder_options())
        frames = [frame for _, frame in present(CORPUS, shards, chosen, context)]
        return pd.concat(frames).sort_values("key", ignore_index=True)

    return found


@pytest.fixture
def half_fails(monkeypatch):
    """Rewriting of texts with an even number gives nothing, and the texts that were asked for are recorded."""
    asked = []

    def written(requests, chosen, context):
        for request in requests:
            asked.append(request.source_id)
            yield Candidate.answering(request, "" if int(request.source_id) % 2 == 0 else f"bus {request.source_id}")

    monkeypatch.setattr(rewrite, "GENERATOR", dataclasses.replace(rewrite.GENERATOR, generate=written, check=lambda *_: None))
    return asked


def test_what_is_rewritten_within_a_budget_is_what_it_is_without(made, rows):
    everything, few = options(budget=None), options(budget="training")
    whole = rows(made(everything, 12), everything)
    part = rows(made(few, 12), few)
    assert 12 <= len(part) < len(whole) == COUNT
    pd.testing.assert_frame_equal(part, whole[whole["key"].isin(part["key"])].reset_index(drop=True))


@pytest.mark.parametrize("changes", [{"budget": None}, {"budget": 10_000}, {"budget": "training"}])
def test_who_asks_for_all_gets_all(made, rows, changes):
    chosen = options(**changes)
    assert len(rows(made(chosen), chosen)) == COUNT  # "training" without training, too


def test_rewrites_that_the_filters_reject_do_not_count(made, half_fails, tiny_weights, embedder_options):
    chosen = options(budget=8)
    shards = made(chosen)
    good = [source for source in half_fails if int(source) % 2]
    assert 8 <= len(good) < COUNT // 2
    assert len(half_fails) > 8
    assert len(set(half_fails)) == len(half_fails)
    context = make_context(tiny_weights, chosen, embedder_options())
    assert budgets(CORPUS, shards, chosen, context) == {"rewrite": {"rewritten": len(half_fails), "planned": COUNT, "pairs": 8}}


def test_texts_in_the_fewest_pairs_come_first_and_pairs_of_others_count(made, rows, half_fails):
    generators = {"rewrite": REWRITE, "neighbours": NEIGHBOURS | {"max_pairs_per_text": 1}}
    of_neighbours = made(options({"neighbours": generators["neighbours"]}))
    pairs = pd.concat(of_neighbours.values())
    paired = {*pairs["source_id"], *pairs["other_id"]}
    single = set(TABLE["id"]) - paired
    assert single
    assert len(paired) > 2
    chosen = options(generators, budget=len(pairs) + 1)
    shards = made(chosen)
    assert 1 <= len(half_fails) <= COUNT
    assert set(half_fails[: len(single)]) <= single or len(half_fails) <= len(single)
    counted = rows(shards, chosen)
    assert (counted["generator"] == "neighbours").sum() == len(pairs)
    half_fails.clear()
    made(options(generators, budget=len(pairs)))
    assert half_fails == []


def test_a_first_rewrite_of_every_text_comes_before_a_second():
    chosen = options({"rewrite": REWRITE | {"weight": 2}})
    planned = lambda: plan(CORPUS, "rewrite", chosen.generators.rewrite, 0)  # noqa: E731
    rounds = Rounds(planned, COUNT, Given(), chosen.filters, 0)
    first = next(iter(rounds))
    assert len(rounds) == 2 * COUNT
    assert {request.turn for request in first} == {0}
    assert {request.source_id for request in first} == set(TABLE["id"])
    again = Rounds(planned, COUNT, Given(), chosen.filters, 1)
    assert [request.key for request in next(iter(again))] != [request.key for request in first]


def test_earlier_rewrites_are_used_and_more_than_the_budget_do_not_count(made, rows, half_fails):
    without, within = options(budget=None), options(budget=8)
    everything = made(without)
    half_fails.clear()
    shards = made(within, done=everything)
    assert half_fails == []
    kept = rows(shards, within)
    assert len(kept) < COUNT
    pd.testing.assert_frame_equal(kept, rows(made(within), within))
    assert len(rows(shards, without)) == COUNT


def test_what_a_crash_left_is_gone_on_with(made, rows):
    chosen = options(budget=20, shard_size=4)
    whole = made(chosen)
    numbered = sorted(name for name in whole if BUDGET not in name)
    left = {name: whole[name] for name in numbered[:2]}
    rest = made(chosen, done=left)
    assert {name: len(frame) for name, frame in rest.items()} == {name: len(frame) for name, frame in whole.items()}
    pd.testing.assert_frame_equal(rows(rest, chosen), rows(whole, chosen))


def test_a_choice_under_other_options_is_refused(made, rows):
    shards = made(options(budget=8))
    with pytest.raises(MissingBudgetError, match="'rewrite' were chosen for other texts or options; run data_augmentation as a whole"):
        rows(shards, options(budget=9))


def test_the_terminal_and_the_report_say_what_was_left_out(made, tiny_weights, embedder_options, caplog):
    chosen = options(budget="training")
    with caplog.at_level(logging.INFO):
        shards = made(chosen, 12)
    context = make_context(tiny_weights, chosen, embedder_options())
    numbers = budgets(CORPUS, shards, chosen, context)["rewrite"]
    assert f"rewrite: {numbers['rewritten']} of 40 texts, for the 12 pairs that are wanted in all" in caplog.messages
    scores = {}
    for shard in pair_selection.score_shards(CORPUS, shards, {}, chosen, context):
        scores |= shard
    report = pair_selection.select_pairs(CORPUS, shards, scores, chosen, context)[2]
    assert report["budget"]["rewrite"] == numbers
    assert report["candidates"] == numbers["rewritten"]


def test_a_budget_is_a_number_or_what_training_reads():
    assert wanted_pairs(options(), 2304) == 2304
    assert wanted_pairs(options(budget=5), 2304) == 5
    assert wanted_pairs(options(budget=None), 2304) is None
    assert wanted_pairs(options(), None) is None
    for wrong in (0, "all"):
        with pytest.raises(ValidationError, match="budget"):
            options(budget=wrong)
