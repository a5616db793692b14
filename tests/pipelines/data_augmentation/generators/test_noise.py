from __future__ import annotations

import random

from embedding_adaptation.pipelines.data_augmentation.generators import identity, noise
from embedding_adaptation.pipelines.data_augmentation.generators.noise import with_noise
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, Request
from embedding_adaptation.pipelines.data_augmentation.options import IdentityOptions, NoiseOptions

TEXT = " ".join(f"word{number:02d}" for number in range(50))
NONE = {"delete_words": 0.0, "swap_words": 0.0, "swap_characters": 0.0}


def changed(text=TEXT, seed=0, **rates):
    return with_noise(text, NoiseOptions(**(NONE | rates)), random.Random(seed))


def test_each_kind_of_mistake_does_what_it_says():
    assert changed() == TEXT
    fewer = changed(delete_words=0.2).split()
    assert 30 <= len(fewer) < 50
    assert fewer == [word for word in TEXT.split() if word in fewer]
    swapped = changed(swap_words=0.2)
    assert swapped != TEXT
    assert sorted(swapped.split()) == sorted(TEXT.split())
    letters = changed(swap_characters=0.2)
    assert [sorted(word) for word in letters.split()] == [sorted(word) for word in TEXT.split()]
    assert letters != TEXT


def test_rates_are_kept_on_average():
    lost = [50 - len(changed(seed=seed, delete_words=0.1).split()) for seed in range(200)]
    assert 4.4 < sum(lost) / 200 < 5.6


def test_a_word_is_always_left():
    assert changed("one two", delete_words=1.0) == "one"
    assert changed("", delete_words=1.0) == ""


def test_only_one_side_is_noisy_and_requests_are_apart():
    context = Context(3, None, None, None)
    requests = [Request.of(str(number), TEXT, turn) for number in range(2) for turn in range(2)]
    made = list(noise.generate(requests, NoiseOptions(), context))
    assert {pair.source_text for pair in made} == {TEXT}
    assert [pair.key for pair in made] == [request.key for request in requests]
    # The same text has the same key whatever its id: another turn is what makes other mistakes.
    assert made[0].generated_text == made[2].generated_text != made[1].generated_text
    assert list(noise.generate(requests[1:], NoiseOptions(), context)) == made[1:]


def test_identity_pairs_a_text_with_itself_once():
    context = Context(0, None, None, None)
    made = list(identity.generate([Request.of("1", "one text", turn) for turn in range(3)], IdentityOptions(), context))
    assert [(pair.source_text, pair.generated_text) for pair in made] == [("one text", "one text")]
