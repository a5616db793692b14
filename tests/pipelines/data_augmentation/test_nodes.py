from __future__ import annotations

import pandas as pd
import pytest
from pydantic import ValidationError

from embedding_adaptation.pipelines.data_augmentation.nodes import AugmentationError, clean_corpus, filter_candidates, generate_candidates
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions


def options(**cleaning):
    style = {"instruction": "say {text}"}
    return AugmentationOptions.model_validate(
        {
            "cleaning": cleaning,
            "generation": {"system_prompt": "rewrite", "styles": {"a": style, "b": style, "c": style}, "max_new_tokens": 3, "seed": 0},
            "filters": {"require_end": False, "min_length_ratio": 0.0, "max_length_ratio": 100.0},
        }
    )


def corpus(*texts):
    return pd.DataFrame({"id": [str(n) for n in range(1, len(texts) + 1)], "text": texts})


def test_cleaning_normalises_and_reports_what_went():
    raw = corpus("cafe\u0301  is  open today", "too short", "CAFÉ is open today", "the bus is late")
    before = raw.copy()
    clean, report = clean_corpus(raw, options())
    assert clean.to_dict("list") == {"id": ["1", "4"], "text": ["café is open today", "the bus is late"]}
    assert report == {"texts": 4, "too_short": 1, "duplicate": 1, "not_drawn": 0, "kept": 2}
    pd.testing.assert_frame_equal(raw, before)


def test_a_draw_is_random_reproducible_and_in_order():
    raw = corpus(*(f"text number {n}" for n in range(50)))
    one, report = clean_corpus(raw, options(max_texts=10))
    two, _ = clean_corpus(raw, options(max_texts=10))
    pd.testing.assert_frame_equal(one, two)
    assert report["not_drawn"] == 40
    assert one["id"].astype(int).is_monotonic_increasing
    assert one["id"].tolist() != [str(n) for n in range(1, 11)]


def test_a_corpus_of_which_nothing_is_left_is_refused():
    with pytest.raises(AugmentationError, match=r"of 2 corpus texts 1 are left after cleaning \(1 shorter than 3 words"):
        clean_corpus(corpus("one two three", "one"), options())


def test_generated_candidates_are_judged_and_other_generations_left_alone(tiny_weights, embedder_options):
    texts = corpus("the bus is late", "water in the house", "please help me now")
    shards = {}
    for shard in generate_candidates(texts, tiny_weights, {}, options(), embedder_options()):
        shards |= shard
    stale = {"000000000000/00000": next(iter(shards.values())).assign(source_text="stale")}
    accepted, rejected, report = filter_candidates(shards | stale, texts, tiny_weights, options())
    assert len(accepted) + len(rejected) == report["candidates"] == 3
    assert "stale" not in set(accepted["source_text"]) | set(rejected["source_text"])
    assert {"pair_id", "source_id", "style", "copy_similarity", "length_ratio", "seed"} <= set(accepted)
    assert sum(report["rejected"].values()) == len(rejected)
    assert sum(style["candidates"] for style in report["styles"].values()) == 3
    assert report["examples"]


def test_no_accepted_pair_is_an_error_with_the_reasons(tiny_weights):
    from embedding_adaptation.pipelines.data_augmentation.generation import generation_fingerprint

    texts = corpus("the bus is late", "water in the house")
    name = generation_fingerprint(texts, tiny_weights.card.sha256, options().generation)
    shard = pd.DataFrame(
        {"source_id": ["1"], "source_text": ["the bus is late"], "style": ["a"], "generated_text": [""], "finished": [True]}
    )
    with pytest.raises(AugmentationError, match=r"none of 1 rewrites passed the filters .*'empty': 1"):
        filter_candidates({f"{name}/00000": shard}, texts, tiny_weights, options())


@pytest.mark.parametrize("styles", [{}, {"a": {"instruction": "no slot"}}, {"a": {"instruction": "{text}", "tone": "warm"}}])
def test_wrong_styles_are_refused(styles):
    with pytest.raises(ValidationError):
        AugmentationOptions.model_validate(options().model_dump() | {"generation": {"system_prompt": "", "styles": styles, "seed": 0}})
