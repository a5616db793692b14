"""What the documents tell people to type."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kedro.framework.project import configure_project, pipelines

from embedding_adaptation.cli import cli
from embedding_adaptation.configuration import ProjectConfigLoader
from embedding_adaptation.parameters import OPTION_TYPES, check_names, read_options, split_parameters
from embedding_adaptation.settings import CONFIG_LOADER_ARGS


def documents(project):
    return "\n".join(path.read_text() for path in [project / "README.md", *sorted((project / "docs").rglob("*.md"))])


def test_every_parameter_on_a_command_line_is_one_that_kedro_takes(project):
    found = re.findall(r"""--params[ =](?:\\?"([^"\n]+?)\\?"|'([^'\n]+)'|([^\s`"]+))""", documents(project))
    values = [next(filter(None, forms)) for forms in found if "..." not in forms]
    assert len(values) > 20
    known = ProjectConfigLoader(str(project / "conf"), env="base", **CONFIG_LOADER_ARGS).known_names()
    for value in values:
        check_names(split_parameters(value), known)


def test_every_pipeline_on_a_command_line_is_there(project):
    configure_project("embedding_adaptation")
    pipelines.set_requested(None)
    named = {name for names in re.findall(r"--pipelines=([\w,]+)", documents(project)) for name in names.split(",")}
    assert {"data_augmentation", "strategy_selection"} <= named
    assert named <= set(pipelines)


@pytest.mark.parametrize("target", ["run", "test", "viz", "mlflow", "serve", "serve-mlflow", "bench", "docs"])
def test_every_verb_the_readme_needs_is_in_the_makefile(project, target):
    assert re.search(rf"^{target}:.*## ", (project / "Makefile").read_text(), re.MULTILINE)


def test_every_benchmark_that_is_named_is_there(project):
    named = set(re.findall(r"benchmarks/(\w+\.py)", documents(project) + (project / "Makefile").read_text()))
    assert named
    assert named <= {path.name for path in (project / "benchmarks").glob("*.py")}


HOW_TO = sorted((Path(__file__).parents[1] / "docs" / "how-to").rglob("*.md"))


def first_command(page: Path) -> str:
    """The command that a how-to begins with, right below its title."""
    found = re.match(r"# [^\n]+\n\n```bash\n(.*?)\n```\n", page.read_text(), re.DOTALL)
    assert found, f"{page.name} does not begin with a command"
    return found[1]


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_begins_with_a_command_that_can_be_pasted(page, project):
    words = shlex.split(first_command(page), comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (project / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["kedro", "run"]:
        check_run(words[2:], project)
    elif words[0] == "kedro":
        assert words[1] in {"adapt", "ask", "package"}
    elif words[0] == "python":
        compile(words[words.index("-c") + 1], page.name, "exec")
    else:
        assert shutil.which(words[0]), words[0]


def check_run(arguments: list[str], project: Path) -> None:
    """Hold the arguments of ``kedro run`` against the command's own parser, the pipelines, the options' bounds and the files."""
    given = cli.commands["run"].make_context("run", arguments).params
    configure_project("embedding_adaptation")
    pipelines.set_requested(None)
    assert {*given["pipelines"]} <= set(pipelines)
    values = given["params"]
    loader = ProjectConfigLoader(str(project / "conf"), env="base", runtime_params=values, **CONFIG_LOADER_ARGS)
    if values:
        check_names(values, loader.known_names())
    groups = {*OPTION_TYPES} & set(values)
    for group in groups:
        read_options(group, loader["parameters"][group])
    for name in {"corpus", "labelled_texts"} & set(values):
        assert (project / values[name]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python", "private-data", "integrate/scikit-learn"])
def test_the_first_command_of_a_how_to_that_needs_no_run_works_as_pasted(name, project):
    if name == "private-data" and not (project / ".git").exists():
        pytest.skip("not a clone")
    command = first_command(project / "docs" / "how-to" / f"{name}.md")
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=project, env={**os.environ, "PATH": search}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = {"private-data": "conf/local/parameters.yml\ndata/08_reporting/report.md"}
    assert done.stdout.strip() == expected.get(name, "(1, 32)")
