"""What the documents tell people to type."""

from __future__ import annotations

import re

import pytest
from kedro.framework.project import configure_project, pipelines

from embedding_adaptation.configuration import ProjectConfigLoader
from embedding_adaptation.parameters import check_names, split_parameters
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
