from __future__ import annotations

import pytest

from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, Request
from embedding_adaptation.pipelines.data_augmentation.generators.span_pairs import generate, spans
from embedding_adaptation.pipelines.data_augmentation.options import SpanPairsOptions


def made(*texts, **options):
    context = Context(0, None, None, None)
    return list(generate([Request.of(str(n), text) for n, text in enumerate(texts)], SpanPairsOptions(**options), context))


def test_neighbouring_sentences_are_paired():
    pairs = spans("The bus was late again today. I waited for half an hour! Nobody told us why.", 3)
    assert pairs == [
        ("The bus was late again today.", "I waited for half an hour!"),
        ("I waited for half an hour!", "Nobody told us why."),
    ]


def test_one_sentence_is_cut_between_clauses_or_in_the_middle():
    assert spans("The shop was closed, so we went home without any bread", 4)[0] == (
        "The shop was closed", "so we went home without any bread",
    )  # fmt: skip
    assert spans("one two three four five six seven eight", 4) == [("one two three four", "five six seven eight")]


def test_short_texts_give_nothing():
    assert made("too short", "also not long enough here") == []


def test_parts_are_disjoint_and_bounded():
    (pair,) = made("a b c d e f g h i j k l", min_words=2, max_words=3)
    assert (pair.source_text, pair.generated_text) == ("d e f", "g h i")


def test_turns_may_cut_elsewhere_and_repeat_themselves():
    text = " ".join(f"Sentence number {n} has words." for n in range(9))
    context = Context(0, None, None, None)
    requests = [Request.of("1", text, turn) for turn in range(8)]
    first, again = (list(generate(requests, SpanPairsOptions(), context)) for _ in range(2))
    assert first == again
    assert len({pair.source_text for pair in first}) > 2


@pytest.mark.parametrize("text", ["我今天去了银行。我想要一张新的银行卡。", "𝕏" * 50, "SELECT * FROM t; DROP TABLE t; -- x y z"])
def test_other_scripts_and_code_do_no_harm(text):
    for pair in made(text, min_words=1):
        assert pair.source_text
        assert pair.generated_text
