from __future__ import annotations

import re

import pytest
import regex

from embedding_adaptation.texts import scripts
from embedding_adaptation.texts.scripts import count_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("the bus, late", 3),
        ("der Bus fährt nicht", 4),
        ("公交车晚点了", 6),
        ("バス late です", 5),
        ("รถเมล์มาสาย", 3),
        ("👍👍 ok", 2),
    ],
)
def test_words_are_counted_in_all_scripts(text, words):
    assert count_words(text) == words


@pytest.mark.parametrize("script", ["Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"])
def test_the_classes_hold_the_letters_of_all_scripts_without_spaces(script):
    everything = "".join(map(chr, range(0x30000)))
    letters = regex.findall(rf"(?V1)[\p{{{script}}}&&\p{{L}}]", everything)
    assert len(letters) > 40
    assert [letter for letter in letters if not re.match(f"[{scripts.UNSPACED}]", letter)] == []


@pytest.mark.parametrize("text", ["Straße", "naïve", "Приве́т", "عربي", "हिन्दी", "한국어", "👍"])
def test_scripts_with_spaces_are_none_of_them(text):
    assert not re.search(f"[{scripts.UNSPACED}]", text)
