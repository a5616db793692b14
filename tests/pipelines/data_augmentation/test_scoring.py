from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.pipelines.data_augmentation.scoring import (
    drift_reference,
    is_question,
    length_ratio,
    new_words,
    repetition,
    score,
)

SOURCE = "The bins on our street were not emptied this week."
COLUMNS = [
    "key", "answer", "copy_similarity", "length_ratio", "refusal", "preamble", "source_language", "language", "language_confidence",
    "lost_facts", "invented_facts", "source_question", "question", "repetition", "new_words", "similarity", "percentile",
]  # fmt: skip


def candidates(*rows, generator="rewrite", finished=True):
    """Candidates of (text, answer)."""
    frame = pd.DataFrame(rows, columns=["source_text", "generated_text"], dtype=str)
    keys = [f"{number:016x}" for number in range(len(frame))]
    return frame.assign(key=keys, generator=generator, style="", finished=finished, other_id="").astype({"key": str, "generator": str})


def scores(source, answer, **changes):
    """The scores of one pair."""
    return score(candidates((source, answer), **changes), None, None).iloc[0]


def overlap(first, second):
    """Share of common words: a cheap stand-in for a strategy."""
    pairs = zip(map(str.split, first), map(str.split, second), strict=True)
    return np.array([len({*left} & {*right}) / max(len({*left} | {*right}), 1) for left, right in pairs], np.float32)


def test_there_is_a_row_a_candidate_with_every_score():
    frame = candidates((SOURCE, "Nobody collected our rubbish."), (SOURCE, SOURCE), ("", "")).iloc[::-1]
    scored = score(frame, overlap, np.array([0.1, 0.5]))
    assert list(scored.columns) == COLUMNS
    assert scored["key"].tolist() == frame["key"].tolist()
    assert scored.drop(columns=["similarity", "percentile"]).notna().all(axis=None)


def test_no_candidates_have_no_scores():
    scored = score(candidates(), overlap, np.array([0.5]))
    assert list(scored.columns) == COLUMNS
    assert scored.empty
    assert scored.dtypes.equals(score(candidates((SOURCE, SOURCE)), overlap, np.array([0.5])).dtypes)


def test_a_pair_has_the_same_scores_whatever_it_stands_beside():
    frame = candidates((SOURCE, "Nobody came."), ("Where is bus 7?", "Bus 7 is late?"), (SOURCE, "bins bins bins bins"), ("房东来了", ""))
    together = score(frame, overlap, np.array([0.1, 0.5]))
    apart = pd.concat([score(frame.iloc[[row]], overlap, np.array([0.1, 0.5])) for row in range(len(frame))], ignore_index=True)
    pd.testing.assert_frame_equal(together, apart)


def test_candidates_are_not_changed():
    frame = candidates((SOURCE, '"Full bins."'))
    before = frame.copy()
    score(frame, None, None)
    pd.testing.assert_frame_equal(frame, before)


def test_only_the_answers_of_language_models_are_tidied_and_cut_back():
    answer = '"Nobody came.  They are full and'
    assert scores(SOURCE, answer)["answer"] == "Nobody came. They are full and"
    assert scores(SOURCE, answer, finished=False, generator="back_translation")["answer"] == "Nobody came."
    assert scores(SOURCE, "They are  full and", finished=False)["answer"] == "They are full and"
    assert scores(SOURCE, answer, finished=False, generator="given")["answer"] == answer


def test_copies_are_told_without_regard_to_case_and_white_space():
    assert scores("Some Text", "some  text")["copy_similarity"] == 1.0
    assert scores("STRASSE", "straße", generator="given")["copy_similarity"] == 1.0
    assert scores("abc", "xyz")["copy_similarity"] == 0.0
    assert scores("", "")["copy_similarity"] == 1.0
    assert 0.2 < scores(SOURCE, "Nobody collected our rubbish.")["copy_similarity"] < 0.6


@pytest.mark.parametrize(
    ("source", "answer", "ratio"), [("a b", "a", 0.5), ("", "one two", 2.0), ("one", "", 0.0), ("公交车", "公交车晚点", 5 / 3)]
)
def test_length_is_measured_in_words(source, answer, ratio):
    assert length_ratio(source, answer) == ratio


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I cannot help with that.",
        "I’m sorry, I can’t do that.",
        "As an AI language model I have no street.",
        "I'm not sure I understand. Can you explain it?",
        "I'd be happy to help!",
        "Please provide the text to rewrite.",
        "How can I help you today?",
        "Es tut mir leid, aber das geht nicht.",
    ],
)
def test_refusals_are_told(answer):
    assert scores(SOURCE, answer)["refusal"] == 1
    assert scores(f"He wrote: {answer}", answer)["refusal"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        "Here is a rewritten message: our bins are full.",
        "The message is about bins.",
        "Sure! Bins are full.",
        "Of course, the bins are full.",
        "Bins, in simpler terms.",
        "Voici le texte : les poubelles.",
    ],
)
def test_talk_about_the_answer_is_told(answer):
    assert scores(SOURCE, answer)["preamble"] == 1
    assert scores(f"{answer} he wrote", answer)["preamble"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, our dog destroyed a book.",
        "I can't log in, please give us more bins.",
        "I'm not sure how to renew a card.",
        "The bus is late, of course.",
        "How can I help the homeless?",
    ],
)
def test_people_who_are_sorry_or_cannot_are_no_refusal(answer):
    assert scores(SOURCE, answer)[["refusal", "preamble"]].tolist() == [0, 0]


def test_languages_are_told_with_the_lower_confidence():
    german = "Der Vermieter hat die Kaution einbehalten und antwortet seit Wochen nicht auf meine Briefe."
    row = scores(SOURCE, german)
    assert row[["source_language", "language"]].tolist() == ["en", "de"]
    assert 0.9 < row["language_confidence"] <= 1.0
    assert scores(SOURCE, "bins")["language_confidence"] < 0.5
    assert scores(SOURCE, "房东扣留了押金,几个星期以来一直没有回复我的信件。")["language"] == "zh"


@pytest.mark.parametrize("answer", ["", "12 34", "...", "🎉"])
def test_what_has_no_letters_has_no_language(answer):
    assert scores(SOURCE, answer)[["language", "language_confidence"]].tolist() == ["", 0.0]


@pytest.mark.parametrize(
    "text",
    [
        "Where is my bin?",
        "Where is my bin?! ",
        "“Where is my bin?”",
        "公交车几点到？",
        "متى يصل الباص؟",
        "¿Dónde está?",
        "how to change an address",
        "How to Reset My Password",
        "who do i call",
        "what's the number of the library",
        "where can i put old paint",
        "so do you know the number",
        "isn’t the library open",
        "can the council help",
        "Nobody came. when will they come",
        "anyone know a plumber",
    ],
)
def test_questions_are_told(text):
    assert is_question(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "The bus is late.",
        "Where is my bin? Thanks!",
        "Why I left.",
        "what a mess",
        "when the bus comes I wave",
        "have a nice day",
        "do the dishes",
        "changing an address",
        "Can I ask. The bus was late",
        "whoever comes first",
        "if x == y: return z ? 1 : 2",
    ],
)
def test_statements_are_no_questions(text):
    assert not is_question(text)


def test_text_and_answer_have_each_their_question():
    assert scores("Where is it?", "It is there.")[["source_question", "question"]].tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three four five six", 0.0),
        ("bins bins bins bins bins bins", 0.75),
        ("full bins full bins full bins", 0.5),
        ("bins bins bins bins", 1.0),
        ("bins Bins bins full today", 0.6),
        ("bins full bins full", 0.0),
        ("bins bins bins", 0.0),
        ("hahahahahahahahaha", 1.0),
        ("soo good", 0.0),
        ("a 2000000000 euro bill", 0.0),
        ("好好好好好好", 0.75),
        ("公交车今天又晚点了", 0.0),
    ],
)
def test_repetition_is_the_share_of_3_grams_that_were_there_before(text, share):
    assert repetition(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("source", "answer", "share"),
    [
        ("The ramp at the side door is blocked by bicycles", "The old stone bridge is blocked by bicycles", 0.5),  # stone, bridge of four
        ("Volunteers are planting trees", "A volunteer planted a tree", 0.0),
        ("Die Gemeinde plant neue Wohnungen", "Neue Wohnung der Gemeinden", 0.0),
        ("The bus is late", "Bus late", 0.0),
        ("Seagulls one, sacks nil.", "...", 0.0),
        ("今天下雨了", "雨天", 0.0),
    ],
)
def test_new_words_are_those_the_source_has_nothing_like(source, answer, share):
    assert new_words(source, answer) == pytest.approx(share)


@pytest.mark.parametrize(
    ("source", "answer", "lost", "invented"),
    [
        ("no facts here", "none there either", 0.0, 0),
        ("The 7 bus was 20 minutes late.", "The 7 bus was late.", 0.5, 0),
        ("The bus was late.", "The 7 bus was late on Monday.", 0.0, 2),
        ("We met Anna in Paris.", "Nobody was there.", 1.0, 0),
        ("I have two cats.", "I have 2 cats.", 0.0, 0),
        ("Move to the UK in 2011!", "How to Move to Sunny Spain in 2012", 1.0, 1),
        ("الحافلة رقم 7 متأخرة", "الحافلة رقم 8 متأخرة", 1.0, 1),
    ],
)
def test_facts_are_lost_or_invented(source, answer, lost, invented):
    assert scores(source, answer)[["lost_facts", "invented_facts"]].tolist() == [lost, invented]


def test_german_nouns_are_not_invented():
    source = "Der Vermieter hat die Kaution einbehalten und antwortet nicht auf meine Briefe."
    answer = "Mein Hausherr gibt mir das Geld nicht zurück und schweigt."
    assert scores(source, answer)[["lost_facts", "invented_facts"]].tolist() == [0.0, 0]


@pytest.mark.parametrize("text", ["def area(r: float) -> float: return 3.14159 * r ** 2", "SELECT id FROM users WHERE name = 'x'"])
def test_code_is_scored_like_any_text(text):
    row = scores(text, text, generator="identity")
    assert row["answer"] == text
    assert row[["copy_similarity", "length_ratio", "lost_facts"]].tolist() == [1.0, 1.0, 0.0]
    assert row[["refusal", "preamble", "invented_facts"]].tolist() == [0, 0, 0]
    assert row["repetition"] < 0.3


def test_similarity_is_asked_only_for_pairs_of_words():
    asked = []

    def similarity(first, second):
        asked.extend(zip(first, second, strict=True))
        return np.full(len(first), 0.4, np.float32)

    scored = score(candidates(("a b", "a"), ("a b", "..."), ("a b", "")), similarity, np.array([0.1, 0.3, 0.5, 0.7]))
    assert asked == [("a b", "a")]
    np.testing.assert_allclose(scored["similarity"], [0.4, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(scored["percentile"], [50.0, np.nan, np.nan])


@pytest.mark.parametrize(("similarity", "percentile"), [(-1.0, 0.0), (0.1, 25.0), (0.7, 100.0), (0.9, 100.0)])
def test_percentiles_have_their_ends(similarity, percentile):
    scored = score(candidates(("a", "b")), lambda first, second: np.array([similarity]), np.array([0.1, 0.3, 0.5, 0.7]))
    assert scored["percentile"].tolist() == [percentile]


@pytest.mark.parametrize("reference", [None, np.empty(0)])
def test_without_random_pairs_there_is_no_percentile(reference):
    scored = score(candidates((SOURCE, SOURCE)), overlap, reference)
    assert scored["similarity"].tolist() == [1.0]
    assert scored["percentile"].isna().all()


def test_nothing_is_asked_where_drift_is_not_wanted():
    scored = score(candidates((SOURCE, SOURCE)), None, np.array([0.5]))
    assert scored[["similarity", "percentile"]].isna().all(axis=None)


def test_random_pairs_are_distinct_sorted_and_the_same_again():
    texts = [f"text {number}" for number in range(20)]
    asked = []

    def similarity(first, second):
        asked.append(list(zip(first, second, strict=True)))
        return np.array([int(text.split()[1]) for text in first], np.float32)

    reference = drift_reference([*texts, "text 0"], similarity)
    assert len(reference) == 180
    assert (np.diff(reference) >= 0).all()
    assert all(left != right for left, right in asked[0])
    assert len({frozenset(pair) for pair in asked[0]}) == 180
    drift_reference(texts, similarity)
    assert asked[0] == asked[1]


def test_random_pairs_of_a_sorted_corpus_are_not_its_neighbours():
    corpus = [f"{subject} {subject}{number}" for subject in ("bus", "bin", "bath", "book") for number in range(20)]
    reference = drift_reference(corpus, overlap)
    assert (reference > 0).mean() < 0.5


@pytest.mark.parametrize(("count", "pairs"), [(0, 0), (2, 0), (3, 3), (4, 4), (5, 10)])
def test_few_texts_have_few_random_pairs(count, pairs):
    assert len(drift_reference([f"text {number}" for number in range(count)], overlap)) == pairs
