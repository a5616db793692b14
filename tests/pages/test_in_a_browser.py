"""The pages as people meet them: a real browser, hover, search, keyboard, dark, phone, accessibility."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import time

import pandas as pd
import pytest

from embedding_adaptation.ask_command import read_answers
from embedding_adaptation.pages.attention import attention_page
from embedding_adaptation.verdict.judging import sequential_decision
from embedding_adaptation.verdict.options import QuestionsOptions
from embedding_adaptation.verdict.questions import Question
from page_fixtures import ATTENTION

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-gl=swiftshader", "--enable-unsafe-swiftshader"]
NO_FAULTS = ("GPU stall", "GL Driver Message", "Automatic fallback to software WebGL")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a page from a file, and fails if anything was logged as a fault or asked of a network."""
    faults, opened = [], []

    def start(html, **options):
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        page = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options))
        opened.append(page)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("request", lambda request: faults.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto(file.as_uri())
        page.wait_for_selector(".plot .main-svg")
        return page

    yield start
    for page in opened:
        page.close()
    assert not [fault for fault in faults if not any(harmless in fault for harmless in NO_FAULTS)]


def hover(page, plot, point, shown):
    """Move the mouse to a point of a map, and wait until a text is shown there."""
    page.locator(f"#{plot}").scroll_into_view_if_needed()
    x, y = page.evaluate(
        """([plot, point]) => {
            const place = document.getElementById(plot), box = place.getBoundingClientRect(), {xaxis, yaxis} = place._fullLayout;
            const [trace] = place.data;
            return [box.left + xaxis._offset + xaxis.l2p(trace.x[point]), box.top + yaxis._offset + yaxis.l2p(trace.y[point])];
        }""",
        [plot, point],
    )
    page.mouse.move(x, y)
    page.wait_for_function(
        "([plot, shown]) => document.querySelector(`#${plot} .hoverlayer`).textContent.includes(shown)", arg=[plot, shown], timeout=10_000
    )


def test_the_adaptation_is_searched_hovered_and_filtered(adaptation, open_page):
    page = open_page(adaptation(100))
    page.fill("#search", "NUMBER 7 of")
    page.wait_for_function("document.getElementById('found').textContent === '1 of 100 texts'")
    assert page.inner_text("#matches") == "secretword number 7 of the plum cakes"
    page.fill("#search", "")
    page.select_option("#theme", "0")
    assert page.inner_text("#found") == "50 of 100 texts"
    page.select_option("#theme", "")
    hover(page, "map-adapted", 9, "secretword number 5 of the plum cakes")
    hover(page, "map-base", 0, "</script>")
    page.fill("#filter", "cake")
    assert page.locator("tbody tr:visible", has_text="plum cakes").count() == 1
    assert page.locator("tbody tr:visible", has_text="late buses").count() == 0


def test_tables_sort_and_the_texts_are_taken_away(clusters, open_page):
    page = open_page(clusters(100, more=20))
    heading = page.locator("th.number button", has_text="Texts")
    heading.focus()
    page.keyboard.press("Enter")
    assert page.locator("table[data-sortable] tbody tr").first.inner_text().startswith("noise")
    heading.click()
    assert page.locator("table[data-sortable] tbody tr").first.inner_text().startswith("plum cakes")
    with page.expect_download() as waiting:
        page.click("#download")
    rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text(encoding="utf-8-sig"), newline="")))
    assert len(rows) == 120
    assert rows[1]["text"] == "cats & dogs <img src=x onerror=alert(1)>"
    assert rows[1]["cluster_name"] == "plum cakes"
    assert {(row["cluster"], row["cluster_name"]) for row in rows[100:]} == {("-1", "noise")}


def downloaded(page):
    """The file of answers that the page gives."""
    with page.expect_download() as waiting:
        page.click("#judge-download")
    assert waiting.value.suggested_filename == "answers.json"
    return waiting.value.path()


def choose(page, wanted):
    """Answer the question that is shown by a click, for one of the models."""
    question = page.evaluate("data.asked.questions[Number(document.getElementById('judge-count').textContent.match(/\\d+/)[0]) - 1]")
    shown = [page.inner_text("#judge-text"), *page.locator(".choices button span").all_inner_texts()]
    assert [" ".join(text.split()) for text in shown] == [" ".join(question[name].split()) for name in ("text", "first", "second")]
    choice = "neither" if wanted == "neither" else "first" if question["first_is"] == wanted else "second"
    page.click(f"[data-choice={choice}]")


@pytest.mark.parametrize("wanted", [["adapted"] * 5, ["neither", "base", "adapted"] * 4], ids=["decided", "undecided"])
def test_answers_by_click_are_counted_and_read_by_the_terminal(adaptation, open_page, wanted):
    page = open_page(adaptation(100))
    assert page.inner_text("#judge-count") == "Question 1 of at most 12"
    for number, side in enumerate(wanted, 1):
        assert page.inner_text("#judge-count") == f"Question {number} of at most 12"
        assert page.locator("#judge-result").is_hidden()  # nothing gives away which is which
        choose(page, side)
    counts = (
        f"{wanted.count('adapted')} for the adapted model, {wanted.count('base')} for the base model, {wanted.count('neither')} for neither"
    )
    better = sequential_decision(wanted, QuestionsOptions())
    end = ": the adapted model is better than the base model." if better == "adapted" else ", which does not decide."
    assert page.inner_text("#judge-result") == f"Answers: {counts}{end}"
    assert read_answers(downloaded(page), "this adapter") == {"adapter": "this adapter", "answers": wanted}


def test_questions_are_answered_by_key_taken_back_and_left(adaptation, open_page):
    page = open_page(adaptation(100))
    page.keyboard.press("a")  # while the focus is elsewhere, keys do nothing
    assert page.inner_text("#judge-count") == "Question 1 of at most 12"
    page.focus("[data-choice=first]")
    for key in ("a", "b", "N", "Control+a"):
        page.keyboard.press(key)
    assert page.inner_text("#judge-count") == "Question 4 of at most 12"
    page.focus("#judge-back")
    page.keyboard.press("Enter")
    assert page.inner_text("#judge-count") == "Question 3 of at most 12"
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.inner_text("#judge-count") == "Question 1 of at most 12"
    page.keyboard.press("b")  # the focus has gone to a button that still is one
    page.keyboard.press("n")
    page.focus("#judge-stop")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "judge-closed"
    file = downloaded(page)
    assert [question.get("answer") for question in json.loads(file.read_text())["questions"]] == ["second", "neither"] + [None] * 10
    assert read_answers(file, "this adapter")["answers"] == ["base", "neither"]


def test_the_page_decides_as_the_terminal_does(adaptation, open_page):
    page, rng = open_page(adaptation(100)), random.Random(0)
    runs = [rng.choices(["base", "adapted", "neither"], [1, rng.random() * 3, 1], k=30) for _ in range(300)]
    expected = [sequential_decision(answers, QuestionsOptions()) for answers in runs]
    assert {None, "base", "adapted"} == set(expected)
    found = page.evaluate("runs => runs.map((answers) => decision(answers, data.asked.weight, data.asked.bound))", runs)
    assert found == expected


def test_on_paper_nothing_is_asked(adaptation, open_page):
    page = open_page(adaptation(100))
    page.emulate_media(media="print")
    assert page.locator("#h-judge").is_hidden()
    assert page.locator("#h-next").is_visible()


def test_the_largest_answers_fit_a_phone(adaptation, open_page):
    long = [Question("word " * 900, "x" * 900, "two " * 2000, "base")]
    page = open_page(adaptation(100, questions=long), viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("[data-choice=second]")
    assert page.inner_text("#judge-result").startswith("Answers: 1 for the adapted model, 0 for the base")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["adaptation", "clusters"])
def test_nobody_is_shut_out(which, scheme, request, open_page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")

    def faults():
        results = axe.Axe().run(page, options={"rules": {"region": {"enabled": True}}}).response["violations"]
        serious = [found for found in results if found["impact"] in {"serious", "critical"}]
        return [(found["id"], [node["html"][:120] for node in found["nodes"]]) for found in serious]

    page = open_page(request.getfixturevalue(which)(100), color_scheme=scheme)
    assert not faults()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    if which == "adaptation":
        page.click("[data-choice=first]")
        page.click("#judge-stop")
        assert not faults()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shaded_words_can_be_read(browser, tmp_path, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    file = tmp_path / "attention.html"
    words = ATTENTION.assign(id="a", kind="content")
    file.write_text(attention_page(pd.concat([words, words.assign(part="prefix", base=0.9)]), ["a"], template="{text}"), encoding="utf-8")
    page = browser.new_page(color_scheme=scheme)
    page.goto(file.as_uri())
    results = axe.Axe().run(page).response["violations"]
    page.close()
    assert not [(found["id"], found["nodes"][0]["html"]) for found in results if found["impact"] in {"serious", "critical"}]


def test_it_fits_a_phone_and_changes_to_dark(adaptation, clusters, open_page):
    for html in (adaptation(100), clusters(100)):
        page = open_page(html, viewport={"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_ten_thousand_points_are_fluent(clusters, open_page):
    page = open_page(clusters(10_000))
    start = time.perf_counter()
    page.fill("#search", "number 77")
    page.wait_for_function("document.getElementById('found').textContent.endsWith('of 10,000 texts')")
    assert time.perf_counter() - start < 10  # seconds, in software, on whatever machine this is
    assert page.evaluate("document.querySelectorAll('#map .scatterlayer .point').length") == 0  # drawn as one picture, not as elements
