from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

NAMING = {"system_prompt": "x", "instruction": "{texts}"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": 1}, "greater than or equal to 2"),
        ({"method": "hdbscan", "clusters": 5}, "hdbscan finds their number itself"),
        ({"stability": {"candidates": [1, 2]}}, "each at least 2"),
        ({"stability": {"candidates": [2, 2]}}, "distinct numbers"),
        ({"naming": {"system_prompt": "x", "instruction": "no slot"}}, r"one \{texts\} slot"),
        ({"naming": {**NAMING, "min_parameters": -1}}, "greater than or equal to 0"),
        ({"naming": {**NAMING, "server": {"url": "localhost:8000", "model": "m"}}}, "String should match pattern"),
        ({"naming": {**NAMING, "server": {"url": "http://localhost:8000/v1"}}}, "Field required"),
        ({"clustters": 5}, "Extra inputs"),
    ],
)
def test_impossible_options_are_refused(make_options, changes, message):
    with pytest.raises(ValidationError, match=message):
        make_options(**changes)


def test_strategies_must_have_the_weights_they_stand_for(make_options, embedder_options):
    wrong = {"base": "prompted_last_adapted", "adapted": "prompted_last_adapted"}
    with pytest.raises(
        ValueError, match=r"strategy 'prompted_last_adapted' in text_clustering\.strategies\.base: it must have base weights"
    ):
        make_options(strategies=wrong).check(embedder_options(), lambda _: True)
    make_options(strategies=wrong, weights="adapted").check(embedder_options(), lambda _: True)
    make_options().check(embedder_options(), lambda _: True)


def test_the_projects_own_options_are_valid(project):
    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions

    values = yaml.safe_load((project / "conf/base/parameters/text_clustering.yml").read_text())["text_clustering"]
    assert TextClusteringOptions.model_validate(values | {"seed": 0, "private": False}).clusters is None
