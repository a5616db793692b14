from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from embedding_adaptation import tracking_tags
from embedding_adaptation.tracking_tags import RUN_TAGS, VERSION_TAGS, git_tags, model_tags

ROOT = Path(__file__).parents[1]


def table(page: str, heading: str) -> dict[str, str]:
    """The rows of the table below a heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"| {heading} |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.M))


@pytest.mark.parametrize(
    ("page", "heading", "tags"),
    [("how-to/track.md", "tag of a run", RUN_TAGS), ("explanation/product.md", "tag of a version", VERSION_TAGS)],
)
def test_the_documentation_lists_every_tag_with_its_meaning(page, heading, tags):
    assert table(page, heading) == tags


def test_every_tag_of_a_version_is_listed(model_facts):
    for name, _ in model_tags(model_facts):
        general = re.sub(r"score\.[a-z_]+", "score.METRIC", name)
        assert general in VERSION_TAGS, name


def test_no_other_module_names_a_tag():
    names = {value for name, value in vars(tracking_tags).items() if name.isupper() and isinstance(value, str) and "." in value}
    for module in ("tracking", "model_registry", "headlines", "runs_page"):
        tree = ast.parse((ROOT / "src" / "embedding_adaptation" / f"{module}.py").read_text(encoding="utf-8"))
        assert names.isdisjoint({node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}), module


def test_outside_a_repository_the_commit_is_unknown(tmp_path):
    assert git_tags(tmp_path) == {"git.commit": "unknown", "git.dirty": "unknown"}
