from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.datasets.pandas_files import CSVDataset, ParquetDataset
from embedding_adaptation.datasets.previews import markdown_preview, page_preview, table_preview
from embedding_adaptation.datasets.reports import JSONDataset, OptionalReportDataset
from embedding_adaptation.datasets.text_files import TextDataset


def test_a_table_is_cut_to_what_one_reads():
    table = pd.DataFrame(
        {
            "number": [0.123456, 1234.56, np.nan, -0.0000123456, 5.0, np.inf],
            "text": ["a\n b", "x" * 500, None, "", "NaN", "<b>"],
            "flag": [True, False, True, False, True, False],
            "other": range(6),
        }
    )
    shown = table_preview(table, ["text", "number", "flag", "missing"])
    assert shown["columns"] == ["text", "number", "flag"]
    assert [row[1] for row in shown["data"]] == [0.123, 1235, "", -0.0000123, 5, "inf"]
    assert [len(row[0]) for row in shown["data"]] == [3, 120, 0, 0, 3, 3]
    assert [row[2] for row in shown["data"]][:2] == ["yes", "no"]
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def test_cells_of_all_kinds_are_json():
    times = pd.to_datetime(["2026-01-01", None])
    table = pd.DataFrame({"list": [np.arange(2), None], "integer": np.array([1, 2], np.int64), "time": times})
    shown = table_preview(table)
    assert [row[:2] for row in shown["data"]] == [["[0, 1]", 1], ["", 2]]
    assert shown["data"][1][2] == ""
    json.dumps(shown, allow_nan=False)


def test_an_empty_table_has_its_headings():
    assert table_preview(pd.DataFrame({"a": [], "b": []}), ["b"]) == {"columns": ["b"], "index": [], "data": []}
    assert table_preview(pd.DataFrame()) == {"columns": [], "index": [], "data": []}


@pytest.mark.parametrize(("kind", "name"), [(CSVDataset, "t.csv"), (ParquetDataset, "t.parquet")])
def test_tables_show_their_first_rows(kind, name, tmp_path):
    dataset = kind(filepath=str(tmp_path / name), **({"save_args": {"index": False}} if kind is CSVDataset else {}))
    dataset.save(pd.DataFrame({"a": range(100), "b": np.linspace(0, 1, 100)}))
    assert dataset.preview(nrows=2, columns=["b", "a"])["data"] == [[0, 0], [0.0101, 1]]
    assert len(dataset.preview()["data"]) == 20


def test_reports_have_readable_numbers_and_are_json(tmp_path):
    report = {"a": [0.34357166499922814, {"b": float("nan"), "c": None, "d": True}], "e": 12345.678, "f": "ä", "g": 3}
    dataset = JSONDataset(filepath=str(tmp_path / "report.json"))
    dataset.save(report)
    assert json.loads(dataset.preview()) == {"a": [0.344, {"b": "", "c": None, "d": True}], "e": 12346, "f": "ä", "g": 3}


def test_a_report_that_is_not_there_has_no_preview(tmp_path):
    dataset = OptionalReportDataset(filepath=str(tmp_path / "answers.json"))
    assert not dataset.preview()
    dataset.save({"x": 1})
    assert json.loads(dataset.preview()) == {"x": 1}


def test_a_report_is_shown_as_markdown_and_its_html_as_text():
    shown = markdown_preview("# Report\n\n| a | b |\n|---|---|\n| 1 | <img src=x onerror=alert(1)> |\n")
    assert "<h1>Report</h1>" in shown
    assert "<td>1</td>" in shown
    assert "<img" not in shown
    assert "&lt;img" in shown


PAGE = """<!doctype html><html><head><title>T</title><style>body {color: red}</style></head><body>
<header><h1>Cats &amp; dogs</h1><button>Dark</button></header><a class="skip" href="#main">To the content</a>
<script type="application/json">{"a": "<p>secret</p>"}</script><svg><text>axis</text></svg>
<figure><figcaption>Map</figcaption><figure>inner</figure><div class="plot"></div></figure>
<table><thead><tr><th scope="col"><button>Theme</button></th></tr></thead>
<tbody><tr><td onclick="x()" style="color: blue">&lt;b&gt;<br></td></tr></table>
<label>Search</label><input><p class="why">why</p></body></html>"""


def test_a_page_is_shown_without_what_needs_scripts():
    shown = page_preview(PAGE, "/there/a&b.html")
    assert "<h1>Cats &amp; dogs</h1>" in shown
    assert "<th>Theme</th>" in shown
    assert '<td style="color: blue">&lt;b&gt;<br></td>' in shown
    assert "<p>why</p>" in shown
    assert "/there/a&amp;b.html" in shown
    assert shown.count("[a figure]") == 1
    gone = ("Dark", "To the content", "secret", "axis", "Map", "inner", "Search", "onclick", "color: red", "<script", "<input", "<button")
    assert [word for word in gone if word in shown] == []


def as_kedro_viz_shows(html):
    """What kedro-viz 12.5 makes of HTML that its sanitiser has let pass; like there, a dot matches no line terminator."""
    for pattern, made in (
        (r"(?m)^#{1,3} (.*$)", r"<h>\1</h>"),
        (r"\*\*([^\n\r]*?)\*\*|__([^\n\r]*?)__", r"<strong>\1\2</strong>"),
        (r"\*([^\n\r]*?)\*|_([^\n\r]*?)_", r"<em>\1\2</em>"),
        (r"`([^`]+)`", r"<code>\1</code>"),
        (r"\[([^\]]+)\]\(([^)]+)\)", r"<a>\1</a>"),
        (r"(?s)(<li>.*</li>)", r"<ul>\1</ul>"),
        (r"\n", "<br>"),
    ):
        html = re.sub(pattern, made, html)
    return html


@pytest.mark.parametrize(
    "text",
    [
        "one_two_three and bare_last",
        "__init__ **not bold** 2 * 3 * 4",
        "[a](b) and ` two ` ticks",
        "<ul><li>one</li>\n\n<li>two</li></ul>",
    ],
)
def test_kedro_viz_takes_no_text_for_markdown(text):
    shown = page_preview(f"<p>\n# {text}</p>\n<pre>a\n# {text}</pre>", "a_b_c.html").replace("&#13;", "\r")
    assert as_kedro_viz_shows(shown) == shown


def test_lines_are_kept_in_code_only():
    shown = markdown_preview("one\ntwo\n\n    three\n    four\n\n- item\n")
    assert "\n" not in shown
    assert "<p>one two</p>" in shown
    assert "three<br>four" in shown


def test_a_long_page_is_cut():
    assert len(page_preview("<p>word</p>" * 100_000, "x")) < 110_000


def test_pages_of_this_project_keep_their_texts(clusters_page_text):
    shown = page_preview(clusters_page_text, "clusters.html")
    for words in ("Themes", "late buses", "secretword, bus", "Which themes are alike"):
        assert words in shown
    assert "Plotly" not in shown


@pytest.fixture
def clusters_page_text():
    from embedding_adaptation.pages.clusters import clusters_page

    points = pd.DataFrame({"id": ["1", "2"], "text": ["a", "b"], "cluster": [0, 1], "x": [0.0, 1.0], "y": [0.0, 1.0]})
    summary = pd.DataFrame(
        {"cluster": [0, 1], "name": ["late buses", "cakes"], "size": [1, 1], "share": [0.5, 0.5], "cohesion": [0.9, 0.8],
         "words": ["secretword, bus", "cake"], "nearest_1": ["a", "b"]}
    )  # fmt: skip
    merges = pd.DataFrame({"left_name": ["late buses"], "right_name": ["cakes"], "distance": [0.25], "texts": [2]})
    facts = {"texts": 2, "strategy": "consensus", "weights": "base"}
    return clusters_page(points, summary, merges, facts, others=points.head(0), corpus="c.txt", private=False, no_structure=False)


@pytest.mark.parametrize(("name", "text", "part"), [("r.md", "# One", "<h1>One</h1>"), ("r.html", "<h2>Two</h2>", "<h2>Two</h2>")])
def test_texts_are_shown_by_their_kind(name, text, part, tmp_path):
    dataset = TextDataset(filepath=str(tmp_path / name))
    dataset.save(text)
    assert part in dataset.preview()
