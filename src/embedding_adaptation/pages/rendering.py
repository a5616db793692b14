"""Pages from templates: one file each, without a network, whatever texts are in it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, /, **values: Any) -> str:
    """A page as an HTML document with its style, its scripts and, if it has figures, Plotly's library inside.

    Args:
        template: A file in ``templates/``.
        values: What the template names. Text is escaped; ``data`` is handed to the page's script as JSON.

    Raises:
        jinja2.UndefinedError: If the template names something that is not given.
    """
    page = (
        _environment()
        .get_template(template)
        .render(
            style=_source("style.css"),
            shared_script=_source("page.js"),
            plotly=_plotly,
            **values,
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text


def as_json(value: object) -> Markup:
    """JSON for a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704  escaped in JSON's way


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["json"] = as_json
    return environment


def _plotly() -> Markup:
    return Markup(get_plotlyjs())  # noqa: S704  Plotly's own code


def _source(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704  of this package
