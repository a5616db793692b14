from __future__ import annotations

import re

import pytest

from embedding_adaptation.pages.adaptation import exported_sentence, headline
from page_fixtures import ATTENTION


def test_the_page_says_the_verdict_first_and_holds_every_finding(adaptation):
    page = adaptation()
    body = page[page.index("<main") :]
    assert body.index("Better on your labels") < body.index("The texts, before and after") < body.index("What was run")
    assert "It is &lt;better&gt;." in body
    assert "24 steps, of which step 12 was kept; the loss on held-out texts went from 2.000 to 1.000" in body
    assert "7 of 9 candidates were accepted (neighbours 7). Rejected: copy 2." in body
    assert "secretword moved" in body
    assert "<li><strong>secretword new</strong></li>" in body
    assert "<li>secretword old</li>" in body


def test_words_are_shaded_by_the_attention_they_get(adaptation):
    page = adaptation()
    section = page[page.index("What the model looks at") : page.index("Scores on your labels")]
    first, second = section.split("After</span>")
    shades = [re.findall(r"rgba\((\d+),\d+,\d+,([\d.]+)\)", part) for part in (first, second)]
    assert shades == [
        [("0", "0.150"), ("0", "0.300"), ("0", "0.000")],
        [("213", "0.450"), ("213", "0.150"), ("213", "0.000")],
    ]
    assert "secretword&#39;s: 30.00% of the attention" in second
    assert '&lt;</span><span class="word' in section  # attached words stay attached
    assert "The text gets 30.0% of the attention before, 40.0% after. Most gained: “secretword&#39;s”, 10.0% to 30.0%." in section
    assert "What the model looks at" not in adaptation(attention=ATTENTION.head(0))


def test_texts_cannot_break_the_page(adaptation, clusters):
    for page in (adaptation(), clusters()):
        assert "<img src=x" not in page
        assert "<b>bold</b>" not in page
        page.encode("utf-8")


def test_a_private_page_holds_nothing_of_the_texts(adaptation, clusters):
    for page in (adaptation(private=True), clusters(private=True)):
        assert "secretword" not in page
        assert "late buses" not in page
        assert "theme 0" in page
    assert "secretword" in adaptation()


def test_very_long_texts_do_not_make_a_very_large_page(adaptation):
    page, plain = adaptation(longest="x" * 50_000), adaptation()
    assert len(page) < len(plain) + 102 * 1100
    said = "Of long texts, the first 1,000 characters are on this page, and only these are searched."
    assert said in page
    assert said not in plain


def test_without_questions_nobody_is_asked(adaptation):
    assert "Judge for yourself" in adaptation()
    assert "Judge for yourself" not in adaptation(questions=[])
    assert "Judge for yourself" not in adaptation(private=True)


def test_scores_have_intervals_over_texts(adaptation, model_facts):
    page = adaptation()
    assert "0.600 (0.550 to 0.640)" in page
    assert "Unique texts, interval" in page
    scores = {"v_measure": {"mean": 0.6, "sd": 0.01}}
    earlier = {"adapted": scores, "base": None, "random": None, "best": {"strategy": "a", "mean": 0.6, "sd": 0.01}}
    page = adaptation(facts=model_facts | {"evaluation": model_facts["evaluation"] | earlier})
    assert "0.600 ± 0.010" in page
    assert "interval" not in page[page.index("Scores on your labels") :][:1500]


def test_what_is_missing_is_left_out_and_said(adaptation, model_facts):
    page = adaptation(0, facts=model_facts | {"evaluation": None}, verdict={})
    assert "100 texts are too few for a map" in page
    assert "Scores on your labels" not in page
    assert "Adaptation was not judged" in page
    assert "It cannot be told whether adaptation helped." in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation": None, "chosen_by": None}, "; not scored, for want of labels."),
        ({"chosen_by": "answers"}, ", as your answers say; V-measure"),
        ({"chosen_by": "labels"}, ", as the labelled texts say; V-measure"),
    ],
)
def test_the_exported_model_is_said_with_its_reason(model_facts, changes, said):
    assert said in exported_sentence(model_facts | changes)


@pytest.mark.parametrize(
    ("weights", "scores", "kind", "said"),
    [
        ("adapted", {"base": 0.5, "adapted": 0.6}, "better", "Better on your labels: V-measure 0.500 before, 0.600 after."),
        ("base", {"adapted": 0.5, "rejected": 0.4}, "worse", "Worse on your labels: V-measure 0.500 before, 0.400 after."),
        ("adapted", {"base": 0.5, "adapted": 0.5}, "no_difference", "No difference on your labels: V-measure 0.500 before, 0.500 after."),
        ("adapted", {"adapted": 0.5}, "cannot_tell", "It cannot be told whether adaptation helped."),
    ],
)
def test_where_labels_decided_the_headline_is_theirs(model_facts, weights, scores, kind, said):
    evaluation = {name: {"v_measure": {"mean": mean, "sd": 0.01}} for name, mean in scores.items()}
    facts = model_facts | {"chosen_by": "labels", "evaluation": evaluation, "strategy": model_facts["strategy"] | {"weights": weights}}
    assert headline({"verdict": "cannot_tell"}, facts) == {"kind": kind, "headline": said}
    assert headline({"verdict": "better"}, facts | {"chosen_by": "agreement"})["headline"] == "Better: adaptation helped."
