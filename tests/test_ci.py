"""What GitHub runs: targets of the Makefile, on every Python that is promised, between the bounds of the dependencies."""

from __future__ import annotations

import itertools
import re
import runpy
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version


@pytest.fixture
def jobs(project):
    return yaml.safe_load((project / ".github/workflows/ci.yml").read_text())["jobs"]


@pytest.fixture
def lowest(project):
    return runpy.run_path(str(project / ".ci/lowest.py"))["lowest"]


def test_the_workflow_only_calls_targets_of_the_makefile(project, jobs):
    targets = set(re.findall(r"^([a-z-]+):.*## ", (project / "Makefile").read_text(), re.MULTILINE))
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        (target,) = re.fullmatch(r"make (\S+|\$\{\{ matrix\.target \}\})", command).groups()
        assert target == "${{ matrix.target }}" or target in targets
    assert {cell["target"] for cell in jobs["tests"]["strategy"]["matrix"]["include"]} == {"test", "lowest", "newest"} <= targets


def test_every_promised_python_is_tested(project, jobs):
    oldest = tomllib.loads((project / "pyproject.toml").read_text())["project"]["requires-python"]
    tested = {cell["python"] for cell in jobs["tests"]["strategy"]["matrix"]["include"] if cell["target"] == "test"}
    assert tested == {"3.11", "3.12", "3.13"}
    assert oldest == ">=3.11"


def test_every_dependency_has_a_lower_bound_that_the_pinned_versions_meet(project, lowest):
    table = tomllib.loads((project / "pyproject.toml").read_text())
    lines = lowest(table)
    bounds = dict(line.split("==") for line in lines)
    assert len(bounds) == len(lines), "a dependency of two extras has two bounds"
    extras = table["project"]["optional-dependencies"].values()
    wanted = [*table["project"]["dependencies"], *itertools.chain.from_iterable(extras)]
    assert sorted(bounds) == sorted({Requirement(one).name for one in wanted})
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (project / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    too_low = {name: bound for name, bound in bounds.items() if name.lower() in pinned and Version(pinned[name.lower()]) < Version(bound)}
    assert too_low == {}


def test_a_dependency_without_a_lower_bound_is_named(lowest):
    with pytest.raises(ValueError, match="'numpy<3' has no lower bound"):
        lowest({"project": {"dependencies": ["rich>=13,<15", "numpy<3"], "optional-dependencies": {}}})


def test_the_script_prints_constraints(project):
    command = [sys.executable, str(project / ".ci/lowest.py"), str(project / "pyproject.toml")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "kedro==1.7" in lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
