from __future__ import annotations

from embedding_adaptation.wording import budget_sentences, duration, first_few, nearest


def test_names_that_are_near_are_suggested_and_else_all_are_listed():
    assert nearest("text_clusterin", ["text_clustering", "model_export"]) == "did you mean 'text_clustering'?"
    assert nearest("zzz", ["b", "a"]) == "choose from a, b"
    assert nearest("Base-Model", ["base_model", "corpus"]) == "did you mean 'base_model'?"


def test_a_long_list_is_shown_by_its_first_items():
    assert (first_few(range(5)), first_few(iter("abcdefg"))) == ("0, 1, 2, 3, 4", "a, b, c, d, e, ...")


def test_a_budget_is_told_of_only_where_it_left_something_out():
    left_out = {"rewritten": 400, "planned": 2000, "pairs": 2304}
    all_taken = {"rewritten": 300, "planned": 300, "pairs": 2304}
    assert budget_sentences({"rewrite": left_out, "back_translation": all_taken}) == [
        "rewrite: 400 of 2,000 texts, for the 2,304 pairs that are wanted in all"
    ]


def test_durations_have_one_unit():
    assert [duration(seconds) for seconds in (0.4, 8, 89, 91, 240, 9000)] == ["0 s", "8 s", "89 s", "2 min", "4 min", "2.5 h"]
