from __future__ import annotations

import pytest

from embedding_adaptation.texts.answers import cut_back, has_end, tidy_answer


@pytest.mark.parametrize(
    ("answer", "tidied"),
    [
        ('"Full bins."', "Full bins."),
        ("Subject: full\n bins", "full bins"),
        ('"Subject: full bins"', "full bins"),
        ("“Full bins”", "Full bins"),
        ("„Volle Tonnen“", "Volle Tonnen"),
        ("'I don't know'", "I don't know"),
        ('"One" and \'two', '"One" and \'two'),
        ('"One" and "two"', '"One" and "two"'),
        ('"Full bins. And more', "Full bins. And more"),
        ("'tis late", "'tis late"),
        ('"', ""),
        ("Question:", ""),
        ("", ""),
    ],
)
def test_wrapping_without_meaning_is_taken_off(answer, tidied):
    assert tidy_answer(answer) == tidied


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Nobody came. They are full and the", "Nobody came."),
        ('He said "no." And then', 'He said "no."'),
        ("Nobody came. They are full.", "Nobody came. They are full."),
        ("Ask Dr. Smith or Mrs. Jones at No", ""),
        ("1. Nobody came and", ""),
        ("So do I. And the", "So do I."),
        ("it costs 3.07 and", ""),
        ("Why? Because the", "Why?"),
        ("房东来了。他没有", "房东来了。"),
        ("متى؟ لأن", "متى؟"),
        ("", ""),
    ],
)
def test_an_unfinished_answer_ends_with_its_last_full_sentence(answer, kept):
    assert cut_back(answer) == kept
    assert has_end(answer) == (kept == answer)
