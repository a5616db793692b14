"""The pages of the reference that are written from the code."""

from __future__ import annotations

import importlib.util
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml
from kedro.framework.project import configure_project, pipelines

from embedding_adaptation.parameters import OPTION_TYPES

FILE = Path(__file__).parents[1] / ".ci" / "reference_pages.py"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("reference_pages", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(name, value):
    if isinstance(value, dict) and value:
        return [leaf for key, below in value.items() for leaf in leaves(f"{name}.{key}", below)]
    return [name]


@pytest.mark.parametrize("group", OPTION_TYPES)
def test_every_option_that_conf_base_sets_is_on_its_page(pages, project, group):
    files = (project / "conf" / "base" / "parameters").glob("*.yml")
    settings = {name: value for file in files for name, value in yaml.safe_load(file.read_text()).items()}
    rows = [one.name for one in pages.options_of(group)]
    # A mapping that may hold anything is one option: its entries have no names of their own.
    missing = [
        leaf for leaf in leaves(group, settings[group]) if not any(fnmatchcase(leaf, row) or leaf.startswith(f"{row}.") for row in rows)
    ]
    assert rows
    assert not missing


def test_an_option_has_its_type_default_bounds_and_meaning(pages):
    (rank,) = [one for one in pages.options_of("contrastive_finetuning") if one.name == "contrastive_finetuning.lora.rank"]
    assert rank[1:] == ("whole number", "16", "≥ 1", "Rank of the update; size and capacity grow with it.")
    assert "| `lora.rank` | whole number | `16` | ≥ 1 | Rank of the update; size and capacity grow with it. |" in pages.options_page(
        "contrastive_finetuning"
    )


def test_an_option_without_a_default_in_the_code_has_that_of_conf_base(pages):
    (steps,) = [one for one in pages.options_of("contrastive_finetuning") if one.name == "contrastive_finetuning.steps"]
    assert steps.default == "24"


def test_every_dataset_is_listed_with_those_who_write_and_read_it(pages, project):
    configure_project("embedding_adaptation")
    pipelines.set_requested(None)
    catalog = project / "conf" / "base" / "catalog"
    page = pages.datasets_page(catalog, {name: pipelines[name] for name in pipelines if name not in {"__default__", "end_to_end", "adapt"}})
    names = {name for file in catalog.glob("*.yml") for name in yaml.safe_load(file.read_text()) if not name.startswith("_")}
    rows = {row.split("`")[1]: [cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\| `.*$", page, re.MULTILINE)}
    assert set(rows) == names
    assert rows["positive_pairs"][3:5] == ["yes", "`data_augmentation`"]
    assert "`contrastive_finetuning`" in rows["positive_pairs"][5]
    assert rows["corpus"][2:5] == ["`data/01_raw/corpus.txt {corpus}`", "no", ""]


def test_every_group_of_options_is_in_the_navigation(project):
    assert set(re.findall(r"reference/options/(\w+)\.md", (project / "mkdocs.yml").read_text())) == {*OPTION_TYPES, "index"}


def test_every_target_of_make_is_listed(pages, project):
    assert "| `make docs` | Build the documentation into site/ |" in pages.make_targets(project / "Makefile")


def test_roles_of_sphinx_are_left_out(pages):
    html = "see :func:<code>~embedding_adaptation.identity.weights_identity</code>."
    assert pages.on_page_content(html, None, None, None) == "see <code>embedding_adaptation.identity.weights_identity</code>."
