from __future__ import annotations

import re
import sys
import unicodedata

import pandas as pd
import pytest

from embedding_adaptation.pipelines.data_augmentation import cleaning
from embedding_adaptation.pipelines.data_augmentation.cleaning import REASONS, clean
from embedding_adaptation.pipelines.data_augmentation.errors import AugmentationError
from embedding_adaptation.pipelines.data_augmentation.options import CleaningOptions
from embedding_adaptation.texts.stream import TextStream

SUBJECTS = ("bus", "library", "swimming pool", "town hall", "bin collection", "housing office", "school", "market")
COMPLAINTS = ("opens far too late", "has lost my form", "never answers the phone", "was closed without notice", "is dear for families")
ENGLISH = "My landlord has kept the deposit and does not answer my letters any more."
OTHERS = {
    "German": "Der Vermieter hat die Kaution einbehalten und antwortet seit Wochen nicht auf meine Briefe.",
    "Chinese": "房东扣留了押金,几个星期以来一直没有回复我的信件。",
    "Arabic": "احتفظ المالك بالتأمين ولم يرد على رسائلي منذ أسابيع.",
    "Persian with joiners": "می\u200cخواهم کتاب\u200cها را پس بدهم",
    "Thai": "เจ้าของบ้านยึดเงินมัดจำและไม่ตอบจดหมายของฉัน",
    "code": "def area(r: float) -> float: return 3.14159 * r ** 2 # [m^2]",
    "emoji": "so happy 👩‍👩‍👧‍👦 today 🎉🎉 ❤️",
    "digits": "12 34 56 78",
}


def table(*texts):
    return pd.DataFrame({"id": [str(number) for number in range(1, len(texts) + 1)], "text": texts}, dtype=str)


def cleaned(*texts, seed=0, **options):
    """Ids and texts that are kept, and the report."""
    stream, report = clean(TextStream.of(table(*texts)), CleaningOptions(**options), seed)
    return dict(stream.rows()), report


def complaints():
    return [f"The {subject} {complaint}." for subject in SUBJECTS for complaint in COMPLAINTS]


def test_texts_are_normalised_and_the_rest_is_reported():
    kept, report = cleaned("cafe\u0301  is\t open\ntoday ", "too short", "CAFÉ is open today", "the bus is late", "the bus is late!")
    assert kept == {"1": "café is open today", "4": "the bus is late"}
    counts = {name: report[name] for name in ("texts", *REASONS, "kept", "cut_passages")}
    assert counts == dict.fromkeys(REASONS, 0) | {
        "texts": 5, "too_short": 1, "duplicate": 1, "near_duplicate": 1, "kept": 2, "cut_passages": 0,
    }  # fmt: skip


def test_the_corpus_is_not_changed():
    raw = table("one  two three", "ONE two three", "the bus is late")
    before = raw.copy()
    stream, _ = clean(TextStream.of(raw), CleaningOptions(), 0)
    stream.table()
    pd.testing.assert_frame_equal(raw, before)


def test_the_result_can_be_read_more_than_once():
    stream, report = clean(TextStream.of(table(*complaints()), rows=7), CleaningOptions(), 0)
    pd.testing.assert_frame_equal(stream.table(), stream.table())
    assert len(stream.table()) == report["kept"]


def test_invisible_characters_go_and_white_space_stays():
    kept, _ = cleaned("\ufeffthe b\u200bus\u00ad is\x00 la\x07te\r\nto\u2028day e\u200b\u0301t", "another text\x85for company")
    assert kept == {"1": "the bus is late to day ét", "2": "another text for company"}


def test_only_control_format_and_surrogate_characters_are_invisible():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    removed = cleaning._INVISIBLE.findall(every)
    assert {unicodedata.category(character) for character in removed} == {"Cc", "Cf", "Cs"}
    assert not any(character.isspace() for character in removed)
    assert not {"\u200c", "\u200d", "\u0601", "\u06dd"} & set(removed)
    controls = {character for character in every if unicodedata.category(character) == "Cc" and not character.isspace()}
    assert controls <= set(removed)


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS.keys())
def test_other_languages_and_code_are_left_as_they_are(text):
    kept, report = cleaned(ENGLISH, text, max_repeats=1)
    assert kept == {"1": ENGLISH, "2": text}
    assert report["cut_passages"] == 0


def test_texts_that_are_too_short_or_too_long_go():
    kept, report = cleaned("one", "one two", "one two three", "one two three four", min_words=2, max_words=3, near_duplicates=1)
    assert list(kept) == ["2", "3"]
    assert (report["too_short"], report["too_long"]) == (1, 1)


def test_only_texts_that_are_surely_of_another_language_go():
    kept, report = cleaned(
        ENGLISH, *OTHERS.values(), "The bus was late again this morning.", languages=("en", "ar", "fa"), language_confidence=0.9
    )
    names = ("English", *OTHERS, "English")
    assert [names[int(row) - 1] for row in kept] == ["English", "Arabic", "Persian with joiners", "code", "emoji", "digits", "English"]
    assert report["language"] == 3


def test_texts_of_another_language_stay_where_that_is_not_sure_enough():
    assert list(cleaned(ENGLISH, "la la la la", "the bus is late", languages=("en",), language_confidence=1)[0]) == ["1", "2", "3"]


def test_an_unknown_language_is_refused_before_the_corpus_is_read():
    def unread():
        pytest.fail("the corpus was read")

    with pytest.raises(AugmentationError, match=r"unknown language 'english' in cleaning\.languages; choose from .*\bde\b.*\ben\b"):
        clean(TextStream(unread), CleaningOptions(languages=("en", "english")), 0)


def test_boilerplate_is_cut_out_and_a_text_of_nothing_else_goes():
    patterns = (r"(?m)^Sent from my \w+$", r"<[^>]+>", r"\[\d+\]")
    kept, report = cleaned(
        "The bus is late.\nSent from my phone",
        "Hello<br>to the <b>world</b> out there[1].",
        "Sent from my tablet",
        "nothing to cut here",
        boilerplate=patterns,
    )
    assert kept == {"1": "The bus is late.", "2": "Hello to the world out there.", "4": "nothing to cut here"}
    assert (report["boilerplate"], report["cut_passages"]) == (1, 3)


def test_a_pattern_that_matches_nothing_at_all_cuts_nothing():
    kept, report = cleaned("the bus is late", "water in the house", boilerplate=("x*",))
    assert list(kept.values()) == ["the bus is late", "water in the house"]
    assert report["cut_passages"] == 0


def test_a_blank_text_is_too_short_and_not_boilerplate():
    _, report = cleaned("", " \n\u200b", "the bus is late", "water in the house", boilerplate=("x+",), max_repeats=1)
    assert (report["boilerplate"], report["too_short"]) == (0, 2)


def test_sentences_and_lines_of_too_many_texts_are_cut_out():
    footer = "Kind regards, the team"
    questions = ("Where is my card?", "How do I pay?", "Is it open today?", "Who can help me?")
    texts = [f"{question} Please do not reply to this message. Dr. Ames asks.\n{footer}" for question in questions]
    texts += ["Please do not reply to this message.", "A text of its own. It stays whole."]
    kept, report = cleaned(*texts, max_repeats=3)
    assert list(kept.values()) == [f"{question} Dr. Ames asks." for question in questions] + ["A text of its own. It stays whole."]
    assert (report["boilerplate"], report["cut_passages"]) == (1, 5)
    assert cleaned(*texts, max_repeats=4)[0]["1"] == f"Where is my card? Dr. Ames asks. {footer}"
    assert cleaned(*texts, max_repeats=5)[1]["cut_passages"] == 0


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('He said "no." Then he left... Why?! 3.5 km', ['He said "no." ', "Then he left... ", "Why?! ", "3.5 km"]),
        ("...and then. So", ["...and then. ", "So"]),
        ("公交车晚点了。为什么？！走吧?好", ["公交车晚点了。", "为什么？！", "走吧?", "好"]),
        ("متى يفتح؟ لا أعرف", ["متى يفتح؟ ", "لا أعرف"]),
        (f"Contents {100_000 * '.'}12", [f"Contents {100_000 * '.'}12"]),
    ],
    ids=["Latin", "leading dots", "Chinese", "Arabic", "100,000 dots"],
)
def test_sentences_are_told_apart(text, sentences):
    assert cleaning._SENTENCE.findall(text) == sentences


def test_a_sentence_counts_once_a_text():
    text = "It rains all day. It rains all day. It rains all day."
    assert cleaned(text, "the bus is late", max_repeats=1)[1]["cut_passages"] == 0


def test_repeated_sentences_are_found_without_spaces_between_them():
    questions = ("公交车几点到达车站？", "图书馆今天开门吗?", "谁能帮我填写表格！")
    kept, _ = cleaned(*(f"{question}请不要回复这封邮件。" for question in questions), max_repeats=2)
    assert tuple(kept.values()) == questions


@pytest.mark.parametrize(
    ("text", "reason", "options"),
    [
        ("<b></b>", "boilerplate", {"boilerplate": ("<[^>]*>",)}),
        ("ja nein", "too_short", {"max_words": 20, "languages": ("en",)}),
        (OTHERS["German"], "too_long", {"max_words": 13, "languages": ("en",)}),
        (OTHERS["German"], "language", {"languages": ("en",)}),
    ],
)
def test_the_first_reason_counts(text, reason, options):
    _, report = cleaned(text, text, "the bus is late", "water in the house", **options)
    assert {name for name in REASONS if report[name]} == {reason}
    assert report[reason] == 2


def test_equal_texts_are_duplicates_and_similar_ones_near_duplicates():
    kept, report = cleaned(*10 * ["The same text again"], "the SAME text  again", "The same text again!!", "water in the house")
    assert list(kept) == ["1", "13"]
    assert (report["duplicate"], report["near_duplicate"]) == (10, 1)


def test_near_duplicates_stay_where_they_are_not_looked_for():
    kept, report = cleaned("The same text again", "The same text again!", near_duplicates=1)
    assert len(kept) == 2
    assert report["near_duplicate"] == 0


def test_a_draw_is_random_reproducible_and_in_order():
    kept, report = cleaned(*complaints(), max_texts=10, near_duplicates=1)
    assert (report["not_drawn"], report["kept"], len(kept)) == (30, 10, 10)
    assert kept == cleaned(*complaints(), max_texts=10, near_duplicates=1)[0]
    assert kept != cleaned(*complaints(), max_texts=10, near_duplicates=1, seed=1)[0]
    assert list(map(int, kept)) == sorted(map(int, kept))
    assert list(kept) != [str(number) for number in range(1, 11)]


def test_a_draw_does_not_depend_on_the_order_of_the_corpus():
    there = cleaned(*complaints(), max_texts=10, near_duplicates=1)[0]
    back = cleaned(*reversed(complaints()), max_texts=10, near_duplicates=1)[0]
    assert set(there.values()) == set(back.values())


def test_the_result_does_not_depend_on_the_pieces():
    footer = "\nPlease do not reply."
    raw = table(*(text + footer for text in complaints()), *complaints()[:5], "Short.", *(f"{text}!!" for text in complaints()))
    options = CleaningOptions(max_texts=12, max_repeats=10, languages=("en",))
    one, one_report = clean(TextStream.of(raw, rows=3), options, 0)
    two, two_report = clean(TextStream.of(raw, rows=1000), options, 0)
    pd.testing.assert_frame_equal(one.table(), two.table())
    assert one_report == two_report
    assert one_report["near_duplicate"] > 10
    assert one_report["cut_passages"] == 40


def test_examples_show_what_went_and_what_it_is_like():
    texts = ["x" * 300, "x" * 301, "the bus is very late today", "THE BUS is very late today", "the bus is very late today!", "y", "z"]
    _, report = cleaned(*texts, "water in the house")
    assert report["examples"] == {
        "too_short": [{"id": "1", "text": "x" * 200}, {"id": "2", "text": "x" * 200}, {"id": "6", "text": "y"}],
        "duplicate": [{"id": "4", "text": "THE BUS is very late today", "like": "3"}],
        "near_duplicate": [{"id": "5", "text": "the bus is very late today!", "like": "3"}],
    }


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ((), {}, "of 0 corpus texts 0 are left after cleaning; give a larger corpus"),
        (("one two three",), {}, "of 1 corpus texts 1 are left after cleaning; give a larger corpus"),
        (
            ("one two three", "one"),
            {},
            "of 2 corpus texts 1 are left after cleaning (1 shorter than 3 words); give a larger corpus or lower cleaning.min_words",
        ),
        (10 * ("one two three",), {}, "of 10 corpus texts 1 are left after cleaning (9 duplicates); give a larger corpus"),
        (
            ("one two three four five", "one two three four five six seven"),
            {"max_words": 5},
            "of 2 corpus texts 1 are left after cleaning (1 longer than 5 words); give a larger corpus or raise cleaning.max_words",
        ),
        (
            (ENGLISH, ENGLISH + "!", OTHERS["German"]),
            {"languages": ("en",)},
            "of 3 corpus texts 1 are left after cleaning (1 not in en, 1 near-duplicates); "
            "give a larger corpus or add to cleaning.languages or raise cleaning.near_duplicates",
        ),
    ],
)
def test_a_corpus_of_which_too_little_is_left_is_refused(texts, options, message):
    with pytest.raises(AugmentationError, match=f"^{re.escape(message)}$"):
        cleaned(*texts, **options)
