from __future__ import annotations

import pandas as pd
import pytest

from embedding_adaptation.pipelines.data_augmentation.filters import copy_similarity, cut_back, judge_candidates, length_ratio, tidy_answer
from embedding_adaptation.pipelines.data_augmentation.options import FilterOptions

SOURCE = "The bins on our street were not emptied this week."


def judge(*candidates, **options):
    frame = pd.DataFrame(candidates, columns=["source_text", "generated_text", "finished"])
    return judge_candidates(frame, FilterOptions(**options))


@pytest.mark.parametrize(
    ("generated", "reason"),
    [
        ("Nobody collected our rubbish.", ""),
        ("", "empty"),
        ("...", "empty"),
        ("I'm sorry, but I cannot help with that.", "refusal"),
        ("As an AI language model I have no street.", "refusal"),
        ("Here is a rewritten message: our bins are full.", "preamble"),
        ("The message is about bins.", "preamble"),
        ("Sure! Bins are full.", "preamble"),
        ("the bins on our street were not emptied this week", "copy"),
        ("Rubbish. " * 30, "length_ratio"),
    ],
)
def test_each_kind_of_bad_rewrite_is_rejected_for_its_reason(generated, reason):
    row = judge((SOURCE, generated, True)).iloc[0]
    assert row["reason"] == reason
    assert row["verdict"] == ("rejected" if reason else "accepted")


def test_words_of_refusal_that_the_text_itself_uses_are_no_refusal():
    row = judge(("I am sorry, the dog ate the library book.", "I'm sorry, our dog destroyed a book.", True)).iloc[0]
    assert row["verdict"] == "accepted"


def test_an_unfinished_answer_is_cut_back_to_its_last_full_sentence():
    judged = judge((SOURCE, "Nobody came for the bins. They are full and the", False), (SOURCE, "Nobody came for the", False))
    assert judged["generated_text"].tolist() == ["Nobody came for the bins.", ""]
    assert judged["reason"].tolist() == ["", "cut_off"]
    kept = judge((SOURCE, "Nobody came for the", False), require_end=False)
    assert kept["verdict"].tolist() == ["accepted"]


def test_the_same_rewrite_of_two_texts_is_taken_once():
    judged = judge((SOURCE, "full bins", True), ("Where do I put old paint?", "Full bins", True))
    assert judged["reason"].tolist() == ["", "duplicate"]


def test_scores_are_kept_for_every_candidate():
    judged = judge((SOURCE, "Nobody collected our rubbish.", True), (SOURCE, SOURCE, True))
    assert judged["copy_similarity"].tolist()[1] == 1.0
    assert judged["copy_similarity"].tolist()[0] < 0.6
    assert judged["length_ratio"].tolist() == [0.4, 1.0]


@pytest.mark.parametrize(
    ("answer", "tidied"),
    [
        ('"Full bins."', "Full bins."),
        ("Subject: full\n bins", "full bins"),
        ("“Full bins”", "Full bins"),
        ('"One" and \'two', '"One" and \'two'),
    ],
)
def test_wrapping_without_meaning_is_taken_off(answer, tidied):
    assert tidy_answer(answer) == tidied


def test_scores_have_their_ends():
    assert copy_similarity("Some Text", "some  text") == 1.0
    assert copy_similarity("abc", "xyz") == 0.0
    assert length_ratio("", "one two") == 2.0
    assert cut_back('He said "no." And then') == 'He said "no."'
