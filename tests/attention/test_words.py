from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.attention.recording import record_attention
from embedding_adaptation.attention.words import (
    FUNCTION_WORDS,
    Word,
    overlap,
    prompt_words,
    spans_of_parts,
    split_words,
    word_kind,
)
from embedding_adaptation.embedder.template import PromptTemplate


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("library", "content"), ("The", "function"), ("don't", "function"), ("who’s", "function"), ("husband's", "content"),
        ("12", "number"), ("1,000.50", "number"), ("20th", "number"), ("?!", "punctuation"), ("€", "punctuation"), ("🎉", "punctuation"),
        ("Straße", "content"), ("水", "content"),
    ],
)  # fmt: skip
def test_words_are_told_apart_by_kind(word, kind):
    assert [(found.text, found.kind) for found in split_words(word)] == [(word, kind)]
    assert word_kind(word) == kind


def test_a_text_is_cut_into_words_with_their_places():
    text = "Costs £50, well-known…\n水道 ok"
    words = split_words(text)
    assert [word.text for word in words] == ["Costs", "£", "50", ",", "well-known", "…", "水", "道", "ok"]
    assert all(text[word.start : word.end] == word.text for word in words)


def test_another_stop_word_list_replaces_the_english_one():
    assert word_kind("der", {"der", "die"}) == "function"
    assert word_kind("the", {"der", "die"}) == "content"


def test_a_token_of_two_words_is_divided_by_characters():
    words = [Word("ab", 0, 2, "content"), Word("c", 2, 3, "content")]
    np.testing.assert_allclose(overlap([(0, 1), (1, 3)], words, "abc"), [[1, 0, 0], [0.5, 0.5, 0]])
    np.testing.assert_allclose(overlap([(0, 1)], [], " "), [[1]])
    assert overlap([], words, "abc").shape == (0, 3)


def test_spaces_belong_to_the_word_behind_them_and_line_breaks_to_none():
    text = "a 1\nb "
    spans = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (-1, -1)]
    columns = overlap(spans, split_words(text), text).argmax(axis=1)
    assert columns.tolist() == [0, 1, 1, 3, 2, 3, 3]


def test_every_token_belongs_to_the_words_of_its_part(recorded):
    rows = recorded["base"]
    for one in rows:
        words = prompt_words(rows, one, FUNCTION_WORDS)
        np.testing.assert_allclose(sum(word.weights for word in words), 1.0, atol=1e-6)
        assert [word.part for word in words] == sorted(
            (word.part for word in words), key=["sink", "prefix", "text", "suffix", "self"].index
        )
        inside = [word for word in words if word.part == "text"]
        assert [word.text for word in inside] == [word.text for word in split_words(one.text)]
        assert [one.text[word.start : word.end] for word in inside] == [word.text for word in inside]


def test_sink_and_self_stand_alone_and_the_template_reads_as_words(recorded):
    rows = recorded["base"]
    words = prompt_words(rows, next(iter(rows)), FUNCTION_WORDS)
    assert next(word.part for word in words if word.tokens == 1) == "sink"
    assert words[-1].part == "self"
    assert [word.text for word in words if word.part == "suffix"] == ['"', "means", "in", "one", "word", ":", '"']
    together = prompt_words(rows, next(iter(rows)), FUNCTION_WORDS, separate_self=False)
    assert together[-1].part == "suffix"


def test_special_tokens_are_words_of_their_own(tiny_embedder, tmp_path):
    template = PromptTemplate("framed", "{text} is", bos=True, eos=True)
    rows = record_attention(tiny_embedder, template, ["a bus"], tmp_path / "rows", progress=False)
    (one,) = rows
    assert [word.text for word in prompt_words(rows, one, FUNCTION_WORDS)] == ["<s>", "a", "bus", "is", "</s>"]
    last = prompt_words(rows, one, FUNCTION_WORDS, separate_self=False)[-1]
    assert (last.text, last.part, last.kind) == ("</s>", "suffix", "template")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"sink": [0], "prefix": [1], "text": [2, 3], "suffix": [4], "self": [5]}),
        ({"sink_tokens": 2, "separate_self": False}, {"sink": [0, 1], "prefix": [], "text": [2, 3], "suffix": [4, 5], "self": []}),
    ],
)
def test_each_place_of_a_prompt_is_in_one_part(options, expected):
    found = spans_of_parts(6, 2, 4, **options)
    assert {name: places.tolist() for name, places in found.items()} == expected


def test_a_prompt_of_the_text_alone_begins_with_the_sink_and_ends_with_self():
    found = spans_of_parts(3, 0, 3)
    assert {name: places.tolist() for name, places in found.items()} == {"sink": [0], "prefix": [], "text": [1], "suffix": [], "self": [2]}
    assert spans_of_parts(1, 0, 1)["sink"].tolist() == [0]
