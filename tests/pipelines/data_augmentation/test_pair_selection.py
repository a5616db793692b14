from __future__ import annotations

import pandas as pd
import pytest

from embedding_adaptation.pipelines.data_augmentation import pair_selection as module
from embedding_adaptation.pipelines.data_augmentation.candidates import generate, make_context
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions
from embedding_adaptation.pipelines.data_augmentation.pair_selection import MissingScoresError, score_folder, score_shards, select_pairs
from embedding_adaptation.texts.stream import TextStream

TABLE = pd.DataFrame({"id": [str(n) for n in range(60)], "text": [f"text number {n} of this long list" for n in range(60)]})
CORPUS = TextStream.of(TABLE)


def options(**changes):
    values = {
        "cleaning": {},
        "generators": {"noise": {"delete_words": 0.5}, "span_pairs": {"min_words": 2}},
        "filters": {"drift": None, "duplicate": {"generators": ["noise", "span_pairs"]}},
        "shard_size": 7,
        "seed": 0,
    }
    return AugmentationOptions.model_validate(values | changes)


@pytest.fixture
def work(tiny_weights, embedder_options):
    def made(chosen, corpus=CORPUS):
        context = make_context(tiny_weights, chosen, embedder_options())
        candidates, scores = {}, {}
        for shard in generate(corpus, {}, chosen, context):
            candidates |= shard
        for shard in score_shards(corpus, candidates, {}, chosen, context):
            scores |= shard
        return context, candidates, scores

    return made


def outcome(chosen, context, candidates, scores):
    accepted, rejected, report = select_pairs(CORPUS, candidates, scores, chosen, context)
    return accepted.table(), rejected.table(), report


def test_neither_shards_nor_buckets_change_the_outcome(work, monkeypatch):
    chosen = options()
    one = outcome(chosen, *work(chosen))
    assert one[2]["rejected"]["duplicate"] > 0
    other_size = options(shard_size=25)
    monkeypatch.setattr(module, "_SORTED_AT_ONCE", 10)
    other = outcome(other_size, *work(other_size))
    pd.testing.assert_frame_equal(one[0], other[0])
    pd.testing.assert_frame_equal(one[1], other[1])
    assert one[2] == other[2]


def test_scores_that_are_there_are_not_made_again(work):
    chosen = options()
    context, candidates, scores = work(chosen)
    assert len(scores) == len(candidates)
    assert list(score_shards(CORPUS, candidates, scores, chosen, context)) == []
    missing = dict(list(scores.items())[1:])
    assert [list(shard) for shard in score_shards(CORPUS, candidates, missing, chosen, context)] == [list(scores)[:1]]
    with pytest.raises(MissingScoresError, match="have no scores for these options; run data_augmentation"):
        select_pairs(CORPUS, candidates, missing, chosen, context)


def test_pairs_outlive_the_function_that_made_them(work):
    import gc

    chosen = options()
    accepted, rejected, report = select_pairs(CORPUS, *work(chosen)[1:], chosen, work(chosen)[0])
    gc.collect()
    for _ in range(2):
        assert len(accepted.table()) + len(rejected.table()) == report["candidates"]


def test_scores_lie_apart_where_what_decides_them_differs(tiny_weights, embedder_options):
    drifts = [None, *({"strategy": name, "reference_texts": count} for name in ("prompted_last", "bare_mean") for count in (10, 20))]
    folders = set()
    for drift in drifts:
        chosen = options(filters={"drift": drift})
        folders.add(score_folder(CORPUS, chosen, make_context(tiny_weights, chosen, embedder_options())))
    assert len(folders) == len(drifts)
    loose = options(filters={"drift": drifts[1] | {"percentile": 1.0}})
    assert score_folder(CORPUS, loose, make_context(tiny_weights, loose, embedder_options())) in folders


def test_scores_do_not_depend_on_what_a_strategy_or_its_template_is_called(tiny_weights, embedder_options):
    def folder(strategy, template, words="{text} is about"):
        strategies = {
            strategy: {"weights": "base", "template": template, "pooling": "last"},
            "tuned": {"weights": "adapted", "template": template, "pooling": "last"},
        }
        chosen = options(filters={"drift": {"strategy": strategy}})
        renamed = embedder_options(templates={template: words}, strategies=strategies, adapt="tuned")
        return score_folder(CORPUS, chosen, make_context(tiny_weights, chosen, renamed))

    assert folder("a", "b") == folder("c", "d")
    assert folder("a", "b") != folder("a", "b", "{text} says")


def test_scores_of_an_older_format_are_told_of_and_made_again(work, caplog):
    chosen = options()
    context, candidates, scores = work(chosen)
    older = {f"0123456789ab/{name.rpartition('-')[2]}": frame for name, frame in scores.items()}
    again = [shard for part in score_shards(CORPUS, candidates, older, chosen, context) for shard in part]
    assert again == list(scores)
    assert "pair_scores contains data in a format other than 3" in caplog.text


def test_scores_of_other_candidates_under_the_same_name_are_no_scores(work):
    """A shard that was damaged is made again, and may hold other candidates than those that were scored."""
    chosen = options()
    context, candidates, scores = work(chosen)
    name = next(iter(scores))
    partly = scores | {name: scores[name].iloc[1:]}
    assert [list(shard) for shard in score_shards(CORPUS, candidates, partly, chosen, context)] == [[name]]
    with pytest.raises(MissingScoresError, match="have no scores for these options"):
        select_pairs(CORPUS, candidates, partly, chosen, context)
