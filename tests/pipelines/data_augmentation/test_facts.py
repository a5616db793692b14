from __future__ import annotations

import pytest

from embedding_adaptation.pipelines.data_augmentation.facts import Facts


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", set()),
        ("I paid 1,000 pounds", {"1000"}),
        ("1.000 and 1 000 and 1'000 and 1\u202f000", {"1000"}),
        ("1,000.50 of 12,345,678", {"1000.5", "12345678"}),
        ("the 5th of 05", {"5"}),
        ("open 6.30 or 6:30 or 7:00", {"6.3", "7"}),
        ("12.05.2024 and 12/05/2024", {"12", "5", "2024"}),
        ("bus B12, line 7b, COVID-19", {"12", "7", "19"}),
        ("in 2011 100 people", {"2011", "100"}),
        ("2 million and two million", {"2000000"}),
        ("twenty-five, twenty five and a hundred", {"25", "100"}),
        ("Two cats and twelve dogs", {"2", "12"}),
        ("one of us, the second one, an owl", set()),
        ("٣ من 12", {"3", "12"}),
        ("房间 12,345 号", {"12345"}),
        ("0 and 000", {"0"}),
    ],
)
def test_numbers_are_told_in_their_spellings(text, numbers):
    assert Facts(text).numbers == numbers


def test_a_number_of_any_length_is_a_number():
    assert len(Facts("9" * 10_000).numbers) == 1
    assert len(Facts("1," + "9" * 10_000).numbers) == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", set()),
        ("Anna went home.", set()),
        ("we met Anna's sister in Paris", {"anna", "paris"}),
        ("It rained. Then Bob left! Who came? Nobody.", {"bob"}),
        ('He said "Bins are full" and left.', set()),
        ("I think I'm late, I’ve told them.", set()),
        ("the NASA probe was seen over the UK", {"nasa", "uk"}),
        ("PLEASE PAY NOW. then call Anna, she knows", {"anna"}),
        ("How to Reset My Password in Windows", set()),
        ("Flooded Cellar after a Storm", set()),
        ("We met Anna in Paris.", {"anna", "paris"}),
        ("my iPhone and the eBay app do not work", {"iphone", "ebay"}),
        ("it cost me about 3.50 Euro at 5 PM, is that ok Mr Smith?", {"euro", "smith"}),
        ("we went to see O'Neal there", {"o'neal"}),
        ("the cat - It was grey - slept", set()),
        ("Вчера Анна была в Москве", set()),
        ("安娜昨天在巴黎", set()),
    ],
)
def test_names_are_capitalised_words_within_a_sentence(text, names):
    assert Facts(text).names == names


def test_nouns_of_german_are_no_names():
    text = "der Vermieter hat die Kaution seit 2011"
    assert Facts(text, "de").names == set()
    assert Facts(text, "en").names == {"vermieter", "kaution"}
    assert Facts(text, "de").numbers == {"2011"}


@pytest.mark.parametrize(
    ("text", "other", "missing"),
    [
        ("I have 2 cats", "two cats live here", 0),
        ("I have two cats", "2 cats live here", 0),
        ("I have 2 cats", "both cats live here", 0),
        ("the 5th of us", "the fifth of us", 0),
        ("1 ticket", "a ticket", 0),
        ("I have two cats", "three cats live here", 1),
        ("we met Anna and Bob at 5", "someone met ANNA", 2),
        ("the flat of the Smiths in Paris", "smith's flat, paris", 0),
        ("a firm from Australia", "an Australian firm", 0),
        ("we met Bob", "someone met Rob", 1),
        ("nothing to tell", "", 0),
    ],
)
def test_a_fact_is_missing_only_if_no_spelling_of_it_is_there(text, other, missing):
    assert Facts(text).missing_in(Facts(other)) == missing


def test_names_are_found_again_at_the_start_of_a_sentence():
    assert Facts("we met Anna there").missing_in(Facts("Anna was there.")) == 0
    assert Facts("Anna was there.").missing_in(Facts("we met nobody")) == 0
