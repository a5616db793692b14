from __future__ import annotations

import pytest

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.pipelines.text_clustering.words import WordCounts, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The bus, the BUS!", ["the", "bus", "the", "bus"]),
        ("don’t re-open 1984 a b2b", ["don't", "re-open", "b2b"]),
        ("Straße Ölpreis", ["straße", "ölpreis"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("cafe\u0301", ["café"]),
        ("天気 は", ["天気", "は"]),
        ("コーヒー・時々", ["コー", "ーヒ", "ヒー", "時々"]),
        ("ภาษา", ["ภา", "าษ", "ษา"]),
        ("iPhone手机坏了", ["iphone", "手机", "机坏", "坏了"]),
        ("Москва 12 🙂", ["москва"]),
        ("!?", []),
    ],
)
def test_words_of_any_script(text, words):
    assert words_of(text) == words


def counted(*clusters):
    counts = WordCounts(len(clusters))
    for cluster, texts in enumerate(clusters):
        counts.add(texts, [cluster] * len(texts))
    return counts


def test_words_of_the_subject_come_first_and_stop_words_fall_out():
    about = {"bus": ("bus", "stop"), "cake": ("cake", "oven"), "tax": ("tax", "form")}
    clusters = [[f"the {a} is at the {b} and the other" for _ in range(6)] for a, b in about.values()]
    assert counted(*clusters).distinctive(5) == [["bus", "stop"], ["cake", "oven"], ["form", "tax"]]


def test_stop_words_fall_out_of_two_clusters_as_well():
    clusters = [[f"is it the {word} or the other one {n}" for n in range(8)] for word in ("bus", "cake")]
    assert counted(*clusters).distinctive(5) == [["bus"], ["cake"]]


def test_a_word_of_one_text_does_not_stand_for_a_cluster():
    clusters = [["bus late", "bus early", "bus red", "bus blue", "bus banana banana banana"], ["cake"] * 5]
    assert counted(*clusters).distinctive(3) == [["bus"], ["cake"]]


def test_listed_words_are_left_out_and_noise_counts_as_other_texts():
    counts = counted(["bus late today"] * 6, ["cake late oven"] * 6)
    counts.add(["today today today"] * 6, [NOISE] * 6)
    assert counts.distinctive(9, ["Late", "oven"]) == [["bus"], ["cake"]]


def test_texts_without_words_have_no_distinctive_ones():
    assert counted(["?!", "12"], ["bus", "bus"]).distinctive(3) == [[], ["bus"]]
