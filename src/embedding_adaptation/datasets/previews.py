"""What kedro-viz shows of a dataset: tables, reports and pages cut to what one reads at a glance."""

from __future__ import annotations

import json
import math
import re
from html import escape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from kedro_datasets._typing import HTMLPreview, JSONPreview, TablePreview

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

ROWS = 20
_LONGEST_TEXT = 120  # characters
_SIGNIFICANT = 3  # digits
_LONGEST_PAGE = 100_000  # characters
_SPACES = re.compile(r"\s+")
# kedro-viz 12.5 sanitises what it shows, but would let a style apply to all of its own page.
_SHOWN = frozenset(
    {"h1", "h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "strong",
     "em", "b", "i", "code", "pre", "span", "div", "section", "blockquote", "details", "summary", "br", "hr"}
)  # fmt: skip
_VOID = frozenset({"br", "hr"})
# What needs scripts, and what is no use without them.
_LEFT_OUT = frozenset({"head", "script", "style", "template", "svg", "figure", "button", "label", "select", "caption"})
_NO_USE = {("class", "skip"), ("class", "judge")}
_FIGURE = "<p><em>[a figure]</em></p>"
_ATTRIBUTES = frozenset({"style", "title"})
# Then it reads HTML as Markdown: the names in "a_b and c_d" would become italic, lines paragraphs, and items lists once more. Its patterns
# do not cross a carriage return, which does no harm in the attribute of an empty element.
_GUARD = '<span title="-&#13;-"></span>'
_GUARDED = {ord("_"): f"_{_GUARD}", ord("*"): f"*{_GUARD}", ord("]"): f"]{_GUARD}", ord("`"): "\u02cb"}
_IN_ATTRIBUTES = {ord("_"): "\u02cd", ord("*"): "\u2217", ord("`"): "\u02cb", ord("\n"): " "}


def table_preview(table: pd.DataFrame, columns: Sequence[str] = ()) -> TablePreview:
    """Rows of a table: numbers with three significant digits, long texts cut, missing values empty.

    Args:
        table: The rows to show.
        columns: The columns to show, in this order; those that the table lacks are left out. Without any, all.
    """
    shown = table[[column for column in columns if column in table]] if columns else table
    rows = [[_cell(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    return TablePreview({"columns": [str(column) for column in shown], "index": list(range(len(rows))), "data": rows})


def report_preview(report: Any) -> JSONPreview:
    """A report as JSON: numbers with three significant digits; a number that JSON does not have is empty or text."""
    return JSONPreview(json.dumps(_rounded(report), ensure_ascii=False, allow_nan=False))


def markdown_preview(text: str) -> HTMLPreview:
    """A report in Markdown as HTML; HTML inside it is shown as text."""
    from markdown_it import MarkdownIt

    return HTMLPreview(_as_shown(MarkdownIt("commonmark", {"html": False}).enable("table").render(text)))


def page_preview(page: str, place: str) -> HTMLPreview:
    """The headings, texts and tables of a page, without what needs its scripts and styles.

    Args:
        page: The HTML of the page.
        place: Where the whole page is.
    """
    where = f"<p><em>Texts and tables of this page. With its figures: open {escape(place)} in a browser.</em></p>"
    return HTMLPreview(_as_shown(where) + _as_shown(page))


def _as_shown(html: str) -> str:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "".join(reader.shown)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return _number(value) if isinstance(value, float) else value


def _cell(value: Any) -> Any:
    """A value as JSON has it and a reader wants it."""
    import pandas as pd

    if hasattr(value, "tolist"):
        value = value.tolist()  # of numpy
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return _number(value)
    if not isinstance(value, (str, list, dict)) and pd.isna(value):
        return ""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


def _number(value: float) -> float | int | str:
    if not math.isfinite(value):
        return "" if math.isnan(value) else str(value)
    if value.is_integer():
        return int(value)
    digits = max(0, _SIGNIFICANT - 1 - math.floor(math.log10(abs(value))))
    return round(value, digits) if digits else round(value)


class _Reader(HTMLParser):
    """Keeps what is shown of a page.

    Attributes:
        shown: Pieces of HTML.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []
        self._length = 0
        self._skipped = ""
        self._depth = 0
        self._in_heading = self._in_code = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped:
            self._depth += tag == self._skipped
        elif (tag in _LEFT_OUT and not (tag == "button" and self._in_heading)) or _NO_USE & set(attrs):
            self._skipped, self._depth = tag, 1
            if tag == "figure":
                self._show(_FIGURE)
        elif tag in _SHOWN:
            self._in_heading |= tag == "th"
            self._in_code |= tag == "pre"
            kept = "".join(f' {name}="{escape((value or "").translate(_IN_ATTRIBUTES))}"' for name, value in attrs if name in _ATTRIBUTES)
            kept += ' dir="auto"' if tag == "li" else ""
            self._show(f"<{tag}{kept}>")

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._depth -= tag == self._skipped
            if not self._depth:
                self._skipped = ""
        elif tag in _SHOWN - _VOID:
            self._in_heading &= tag != "th"
            self._in_code &= tag != "pre"
            self._show(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            text = escape(data, quote=False).translate(_GUARDED)
            self._show(text.rstrip("\n").replace("\n", "<br>") if self._in_code else _SPACES.sub(" ", text))

    def _show(self, piece: str) -> None:
        self._length += len(piece)
        if self._length <= _LONGEST_PAGE:
            self.shown.append(piece)
