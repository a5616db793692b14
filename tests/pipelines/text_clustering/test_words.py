from __future__ import annotations

import pytest

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.pipelines.text_clustering import words
from embedding_adaptation.pipelines.text_clustering.words import WordCounts, words_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The bus, the BUS!", ["the", "bus", "the", "bus"]),
        ("don’t re-open 1984 a b2b", ["do", "re-open", "b2b"]),
        ("the customer's l’argent qu'être об'єкт", ["the", "customer", "argent", "être", "об'єкт"]),
        ("C# and C++, not issue#5", ["c#", "and", "c++", "not", "issue"]),
        ("1st 10mb x86 3 sha256 2fa mp3", ["sha256", "2fa", "mp3"]),
        ("see <a href='x.html'>it</a><br/>&nbsp;at https://a.b/c?d=e or me@a.org", ["see", "it", "at", "or"]),
        ("lt nbsp " + "f" * 41, []),
        ("vector<int>", ["vector", "int"]),
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
def test_words_of_any_script(text, expected):
    assert words_of(text) == expected


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


def test_forms_of_a_word_count_as_one_and_the_most_frequent_is_shown():
    counts = counted(["my, cards", "cards, again", "a card"] * 3, ["cake", "more cakes", "this cake"] * 4)
    assert counts.distinctive(1, [], ["en", "en"]) == [["cards"], ["cake"]]
    assert counts.distinctive(1, [], ["", ""])[0] == ["cards"]
    assert {"card", "cards"} <= set(counts.distinctive(9, [])[0])


def test_a_form_in_a_single_text_each_is_not_two_texts():
    clusters = [["bus late", "bus early", "bus red", "bus blue", "bus banana bananas"], ["cake"] * 5]
    assert counted(*clusters).distinctive(3, [], ["en", "en"]) == [["bus"], ["cake"]]


def test_words_that_stand_side_by_side_are_shown_together():
    cards = [f"{start} virtual card {end}" for start, end in (("order", "now"), ("lost", "again"), ("freeze", "today"))] * 2
    others = ["physical card", "card and pin", "my card"] * 3 + ["cake in the oven"] * 9
    assert counted(cards, others).distinctive(1)[0] == ["virtual card"]
    apart = [text.replace("virtual card", "virtual, card") for text in cards]
    assert counted(apart, others).distinctive(1)[0] == ["virtual"]


def test_a_word_that_is_common_everywhere_makes_no_pair():
    texts = [[f"the {word} {n}" for n in range(8)] for word in ("bus", "cake")]
    assert counted(*texts).distinctive(3) == [["bus"], ["cake"]]


def test_one_text_that_repeats_itself_makes_no_pair():
    texts = ["bus stop " * 9, "the bus", "a bus", "bus!", "red bus"]
    assert counted(texts, ["cake"] * 5).distinctive(1)[0] == ["bus"]


def test_capital_letters_are_those_within_sentences():
    bus = ["The bus and SharePoint", "See SharePoint. Bus late", "Bus stop", "Bus late", "SharePoint bus"]
    assert set(counted(bus, ["cake"] * 5).distinctive(2)[0]) == {"bus", "SharePoint"}
    assert counted(["HTTP Error"] * 5, ["cake"] * 5).distinctive(1)[0] == ["HTTP Error"]


def test_stop_words_are_those_of_the_clusters_language():
    german = ["die Rechnung ist nicht da", "wo ist denn die Rechnung", "die Rechnung war nicht so"] * 2
    counts = counted(german, ["the cake was fine"] * 6)
    assert counts.distinctive(9, None, ["de", "en"])[0] == ["Rechnung"]
    assert "nicht" in " ".join(counts.distinctive(9, None, ["", ""])[0])


def test_pairs_seen_once_are_forgotten_where_there_are_very_many(monkeypatch):
    monkeypatch.setattr(words, "_MOST_PAIRS", 20)
    texts = [f"virtual card w{letter}w x{letter}x" for letter in "abcdefghijkl"]
    counts = counted(texts, ["cake"] * 9)
    assert counts.distinctive(1)[0] == ["virtual card"]
    assert len(counts._pairs[0]) <= 20 + 3
