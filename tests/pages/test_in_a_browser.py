"""The pages as people meet them: a real browser, hover, search, keyboard, dark, phone, accessibility."""

from __future__ import annotations

import csv
import io
import shutil
import time

import pytest

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["adaptation", "clusters"])
def test_nobody_is_shut_out(which, scheme, request, open_page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page(request.getfixturevalue(which)(100), color_scheme=scheme)
    results = axe.Axe().run(page, options={"rules": {"region": {"enabled": True}}}).response["violations"]
    serious = [found for found in results if found["impact"] in {"serious", "critical"}]
    assert not [(found["id"], [node["html"][:120] for node in found["nodes"]]) for found in serious]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


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
