"""Pages of the reference that are written from the code while the documentation is built (a hook of MkDocs).

Options come from the pydantic models behind ``parameters.OPTION_TYPES``, datasets from ``conf/base/catalog``, targets from the Makefile: a
page that is not stored cannot be out of date.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from embedding_adaptation.parameters import OPTION_TYPES, option_group

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page
    from pydantic.fields import FieldInfo

PROJECT = Path(__file__).parents[1]
TARGETS = "<!-- make targets -->"
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "at least {} long", "max_length": "at most {} long"}
_LONGEST_DEFAULT = 60


class Option(NamedTuple):
    """One option, as a row of a table.

    Attributes:
        name: Dotted, from its group on; ``*`` stands for a name that the user gives.
        kind: What it takes.
        default: What holds if it is not given; empty where it must be given.
        bounds: Smallest and largest values.
        description: What it does.
    """

    name: str
    kind: str
    default: str
    bounds: str
    description: str


def options_of(group: str) -> list[Option]:
    """All options of a group in ``OPTION_TYPES``, in the order of the models.

    Where the code has no default, the value of ``conf/base`` is shown, if it is a value and not a reference to another.
    """
    shipped = _shipped()
    return [
        one._replace(default=shipped.get(one.name, one.default)) if one.default in {"", "derived"} else one
        for one in _walk(group, option_group(group), (option_group(group),))
    ]


def options_page(group: str) -> str:
    """The page of a group of options."""
    rows = [
        _row(f"`{one.name.removeprefix(group + '.')}`", _cell(one.kind), _code(one.default), _cell(one.bounds), _cell(one.description))
        for one in options_of(group)
    ]
    intro = _sentence(option_group(group).__doc__)
    where = f"Set them as `{group}.NAME`, on the command line or in a file: see [Change options](../../how-to/options.md)."
    table = ["| option | takes | default | bounds | meaning |", "|---|---|---|---|---|", *rows]
    return "\n".join([f"# {group}", "", f"{intro} {where}", "", *table, ""])


def options_index() -> str:
    """The list of the groups."""
    lines = [f"- [`{group}`]({group}.md): {len(options_of(group))} options" for group in OPTION_TYPES]
    text = (
        "Defaults are those of the code, and `conf/base/parameters` repeats them. Where the code has none, such as for names of strategies "
        "and texts for a model, the value of `conf/base` is shown. `derived` means that it follows from a global setting, such as the "
        "seed. In names, `*` stands for a name that you choose, or for each entry of a list."
    )
    return "\n".join(["# Options", "", text, "", *lines, ""])


def datasets_page(conf: Path, pipelines: Mapping[str, Pipeline]) -> str:
    """The table of the datasets in ``conf/base/catalog``: where each is stored, and who writes and reads it."""
    parts = [
        "# Datasets",
        "",
        "What the catalog in `conf/base/catalog` names, file by file. `{...}` in a name stands for any text: such an entry is a pattern. A "
        "path followed by a name in braces can be set by that parameter. A versioned dataset is stored as `FILE/<version>/FILE`.",
        "",
    ]
    for file in sorted(conf.glob("*.yml")):
        entries = {name: entry for name, entry in yaml.safe_load(file.read_text()).items() if not name.startswith("_")}
        parts += [f"## {file.stem}", "", "| dataset | layer | file | versioned | written by | read by |", "|---|---|---|---|---|---|"]
        for name, entry in entries.items():
            layer = entry.get("metadata", {}).get("kedro-viz", {}).get("layer", "")
            stored = _plain_path(str(entry.get("filepath", entry.get("path", ""))))
            versioned = "yes" if entry.get("versioned") else "no"
            written = _users(name, pipelines, "outputs")
            read = _users(name, pipelines, "inputs")
            parts.append(_row(f"`{name}`", layer, _code(stored), versioned, written, read))
        parts.append("")
    return "\n".join(parts)


def make_targets(makefile: Path) -> str:
    """The targets of the Makefile, as a table."""
    found = re.findall(r"^([a-z-]+):[^#\n]*## (.*)", makefile.read_text(), re.MULTILINE)
    return "\n".join(["| target | what it does |", "|---|---|", *(f"| `make {name}` | {_cell(text)} |" for name, text in found)])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages (an event of MkDocs)."""
    from kedro.framework.project import configure_project, pipelines
    from mkdocs.structure.files import File

    configure_project("embedding_adaptation")
    pages = {f"reference/options/{group}.md": options_page(group) for group in OPTION_TYPES}
    pages["reference/options/index.md"] = options_index()
    named = {name: pipelines[name] for name in pipelines if name not in {"__default__", "end_to_end", "adapt"}}
    pages["reference/datasets.md"] = datasets_page(PROJECT / "conf" / "base" / "catalog", named)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  MkDocs names them
    """Put the targets where the page wants them (an event of MkDocs)."""
    return markdown.replace(TARGETS, make_targets(PROJECT / "Makefile"))


_ROLE = re.compile(r":(?:meth|func|class|data|attr|mod|obj):<code>[~.]*([\w.]+)</code>")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  MkDocs names them
    """Leave the roles of docstrings out, which Sphinx alone knows (an event of MkDocs)."""
    return _ROLE.sub(r"<code>\1</code>", html)


@cache
def _shipped() -> dict[str, str]:
    """The values in ``conf/base/parameters`` by dotted name."""
    files = sorted((PROJECT / "conf" / "base" / "parameters").glob("*.yml"))
    return dict(pair for file in files for pair in _values("", yaml.safe_load(file.read_text())))


def _values(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _values(f"{name}.{key}" if name else str(key), below)
    elif not (isinstance(value, str) and "${" in value):
        yield name, _as_yaml(value)


def _walk(name: str, model: type[BaseModel], above: tuple[type[BaseModel], ...]) -> Iterator[Option]:
    for key, field in model.model_fields.items():
        path = f"{name}.{field.alias or key}"
        nested = list(_models(field.annotation))
        if not nested or _default(field) not in {"", "derived"} or field.description:
            yield Option(path, _kind(field.annotation), _default(field), _bounds(field), _sentence(field.description or _first_doc(nested)))
        for inner, below in nested:
            if inner not in above:
                yield from _walk(path + below, inner, (*above, inner))


def _models(kind: Any, below: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Models within a type, each with what leads to it: nothing, or ``.*`` through a mapping."""
    origin = get_origin(kind)
    if isinstance(kind, type) and origin is None:
        if issubclass(kind, BaseModel):
            yield kind, below
    elif origin is Annotated:
        yield from _models(get_args(kind)[0], below)
    elif origin in (Union, types.UnionType):
        for member in get_args(kind):
            yield from _models(member, below)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from _models(get_args(kind)[1], below + ".*")
    elif origin in (tuple, list):
        for member in get_args(kind):
            yield from _models(member, below + ".*")


def _kind(kind: Any) -> str:  # noqa: PLR0911  one for each form of a type
    origin, arguments = get_origin(kind), get_args(kind)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", types.NoneType: "null", Any: "any value"}
    if kind in names:
        return names[kind]
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(member) for member in arguments))
    if origin in (tuple, list):
        return f"list of {_kind(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of names to {_kind(arguments[1])}"
    return "group of options" if isinstance(kind, type) and issubclass(kind, BaseModel) else getattr(kind, "__name__", str(kind))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "derived" if field.default_factory else ""
    if isinstance(field.default, BaseModel):
        return "as below"
    return _as_yaml(field.default)


def _as_yaml(value: Any) -> str:
    """A value in one line, as in a file; shortened if it is long."""
    text = yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=10_000, allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("\n...").strip()
    return text if len(text) <= _LONGEST_DEFAULT else text[: _LONGEST_DEFAULT - 1] + "…"


def _bounds(field: FieldInfo) -> str:
    found = [pattern.format(getattr(item, name)) for item in field.metadata for name, pattern in _BOUNDS.items() if hasattr(item, name)]
    return ", ".join(found)


def _users(name: str, pipelines: Mapping[str, Pipeline], side: str) -> str:
    """The pipelines that have a dataset, or one that a pattern stands for, among their nodes' inputs or outputs."""
    wanted = re.compile(re.sub(r"\\\{.*?\\\}", ".+", re.escape(name)))
    using = [
        key for key, pipeline in pipelines.items() if any(wanted.fullmatch(one) for node in pipeline.nodes for one in getattr(node, side))
    ]
    return ", ".join(f"`{key}`" for key in using)


def _plain_path(path: str) -> str:
    path = path.replace("${globals:output}", "data")
    previous = ""
    while previous != path:
        previous, path = path, re.sub(r"\$\{runtime_params:([\w]+)(?:,([^${}]*))?\}", r"\2 {\1}", path)
    return path


def _first_doc(nested: list[tuple[type[BaseModel], str]]) -> str | None:
    return nested[0][0].__doc__ if nested else None


def _sentence(text: str | None) -> str:
    """The first paragraph, in one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""
