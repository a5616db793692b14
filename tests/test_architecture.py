"""The picture in docs/explanation/architecture.md and the rules below it, held against what the modules import."""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "embedding_adaptation"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "architecture.md"

# Rooms that know neither of Kedro nor of MLflow.
LIBRARY = {"embedder", "attention", "vectors", "texts", "identity"}
# Packages that take seconds to import, or need not be installed: also modules that compute may import them inside a function.
HEAVY = {"faiss", "mteb", "openai", "peft", "ray", "sentence_transformers", "transformers", "umap"}
# Imports between the project's own modules that cannot stand at the top: two modules that build on one another.
OWN_INSIDE = {
    ("embedder.embedder", "embedder.modules"),  # an embedder becomes a sentence-transformers model, whose modules hold an embedder
}


@cache
def modules() -> dict[str, Path]:
    """Files by the name of the module without that of the package; the package itself is ``__init__``."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imported(node: ast.AST) -> list[str]:
    """Dotted names that an import statement imports; of the project's modules the name without that of the package."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"a relative import: {ast.unparse(node)}"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    found = []
    for name in names:
        own = name.removeprefix(f"{PACKAGE}.")
        if name == own:
            found.append("__init__" if name == PACKAGE else name)
        elif own in modules():
            found.append(own)
        else:
            found.append(own.rpartition(".")[0] or "__init__")
    return found


@cache
def all_imports(module: str) -> frozenset[str]:
    """What a module imports, wherever and for whatever: inside functions and for types as well."""
    return frozenset(name for node in ast.walk(tree(module)) for name in imported(node))


def imports_inside(module: str) -> set[str]:
    """What a module imports inside functions."""
    functions = (node for node in ast.walk(tree(module)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    return {name for function in functions for node in ast.walk(function) for name in imported(node)}


def imports_at_load(module: str) -> set[str]:
    """What is imported when a module is loaded."""
    found: set[str] = set()
    statements = list(tree(module).body)
    while statements:
        node = statements.pop()
        found.update(imported(node))
        if isinstance(node, (ast.If, ast.Try)) and "TYPE_CHECKING" not in ast.unparse(getattr(node, "test", ast.Constant(0))):
            statements += node.body + node.orelse
    return found


@cache
def rooms() -> dict[str, str]:
    """The room of every package and top-level module, as the page's table has it."""
    found = {}
    for room, listed in re.findall(r"^\| \*\*(\w+)\*\* \| (.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        for name in re.findall(r"`([\w/]+)`", listed):
            assert name not in found, f"{name} is in two rooms"
            found[name.rstrip("/")] = room
    return found


def room(module: str) -> str:
    return rooms()[module.partition(".")[0]]


@cache
def arrows() -> dict[tuple[str, str], frozenset[tuple[str, str]]]:
    """Pairs of rooms of which the first imports the second, with the modules that do."""
    found: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for module in modules():
        for other in all_imports(module):
            if other in modules() and room(module) != room(other):
                found[room(module), room(other)].add((module, other))
    return {pair: frozenset(who) for pair, who in found.items()}


def reached(start: str, edges: set[tuple[str, str]]) -> set[str]:
    """Rooms that arrows lead to from one."""
    found: set[str] = set()
    todo = [start]
    while todo:
        here = todo.pop()
        new = {other for one, other in edges if one == here} - found
        found |= new
        todo += new
    return found


def pipeline_of(module: str) -> str:
    return module.split(".")[1] if module.startswith("pipelines.") else ""


@cache
def loaded_at_start() -> frozenset[str]:
    """The modules that Kedro loads before it knows what is to be run: settings, commands, pipelines, datasets, and what these import."""
    found: set[str] = set()
    todo = [
        module
        for module in modules()
        if module in {"__init__", "settings", "cli", "pipeline_registry"}
        or module.startswith("datasets.")
        or re.fullmatch(r"pipelines\.\w+(\.(pipeline|nodes|options))?", module)
    ]
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += [name for name in imports_at_load(module) if name in modules()]
    return frozenset(found)


def test_every_module_is_in_a_room_and_every_room_has_modules():
    tops = {module.partition(".")[0] for module in modules()}
    assert tops == set(rooms())


def test_rooms_do_not_go_round_in_circles():
    edges = set(arrows())
    circles = {name: arrows()[name, other] for name, other in edges if name in reached(other, edges)}
    assert circles == {}


def test_the_picture_shows_the_arrows_there_are():
    """The picture leaves out an arrow where others lead to the same room."""
    edges = set(arrows())
    direct = {(one, other) for one, other in edges if other not in reached(one, edges - {(one, other)})}
    (picture,) = re.findall(r"```mermaid\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    drawn = set(re.findall(r"^ *(\w+) --> (\w+)$", picture, re.MULTILINE))
    assert drawn == direct
    assert set(re.findall(r"^ *(\w+)\[", picture, re.MULTILINE)) == set(rooms().values())


def test_no_pipeline_imports_another_but_the_one_that_puts_them_together():
    found = {
        (module, other)
        for module in modules()
        for other in all_imports(module)
        if pipeline_of(module) and pipeline_of(other) and pipeline_of(module) != pipeline_of(other)
    }
    assert {module for module, _ in found} == {"pipelines.end_to_end.pipeline", "pipelines.adapt.pipeline"}
    assert {other for _, other in found if other.count(".") != 1} == set(), "of other pipelines it takes create_pipeline, and nothing else"


def test_nothing_imports_a_pipeline():
    """Kedro finds pipelines by their folders, and parameters name options by text."""
    found = {(module, other) for module in modules() for other in all_imports(module) if pipeline_of(other) and not pipeline_of(module)}
    assert found == set()


def test_nothing_imports_serving_which_needs_an_extra():
    assert [pair for pair in arrows() if pair[1] == "serving"] == []
    optional = {"fastapi", "prometheus_client", "starlette", "uvicorn"}
    users = {module for module in modules() for name in all_imports(module) if name.partition(".")[0] in optional}
    assert {room(module) for module in users} == {"serving"}


def test_only_the_cluster_knows_ray():
    users = {module for module in modules() for name in all_imports(module) if name.partition(".")[0] == "ray"}
    assert {room(module) for module in users} == {"cluster"}
    assert [module for module in users for name in imports_at_load(module) if name.partition(".")[0] == "ray"] == []


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_the_library_knows_neither_kedro_nor_mlflow(name):
    found = {
        (module, other)
        for module in modules()
        if module.partition(".")[0] == name
        for other in all_imports(module)
        if re.match(r"(kedro|mlflow)\w*(\.|$)", other)
    }
    assert found == set()


def test_no_two_modules_import_one_another_when_they_are_loaded():
    edges = {(one, other) for one in modules() for other in imports_at_load(one) if other in modules() and other != one}
    assert [module for module in sorted(modules()) if module in reached(module, edges)] == []


def not_allowed_inside(module: str) -> set[str]:
    """What a module imports inside functions without need."""
    return {
        name
        for name in imports_inside(module)
        if name.partition(".")[0] not in HEAVY and (module, name) not in OWN_INSIDE
    }  # fmt: skip


def test_modules_that_compute_import_at_their_top():
    late = {module: not_allowed_inside(module) for module in sorted(set(modules()) - loaded_at_start())}
    assert {module: names for module, names in late.items() if names} == {}


def test_what_may_be_imported_inside_is_so_somewhere():
    inside = {(module, name) for module in modules() for name in imports_inside(module)}
    assert inside >= OWN_INSIDE
    assert {name.partition(".")[0] for _, name in inside} >= HEAVY


def test_the_rules_find_what_breaks_them():
    """On a graph made up for it."""
    assert reached("a", {("a", "b"), ("b", "c"), ("d", "a")}) == {"b", "c"}
    assert "a" in reached("a", set(itertools.pairwise("abca")))
    source = (
        "from kedro.io import Version\ndef f():\n    import embedding_adaptation.options\n    from embedding_adaptation.texts import stream"
    )
    assert [imported(node) for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))] == [
        ["kedro.io.Version"], ["options"], ["texts.stream"],
    ]  # fmt: skip
