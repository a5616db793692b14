from __future__ import annotations

import json
import os

import pytest

from embedding_adaptation.atomic import remove_folder
from embedding_adaptation.prune_command import described_adapters, old_versions, size_of

VERSIONS = [f"2026-01-0{day}T00.00.00.000Z" for day in range(1, 6)]


@pytest.fixture
def output(tmp_path):
    for layer, name in (("06_models", "adapter"), ("08_reporting", "report.html"), ("06_models", "base_model"), ("01_raw", "answers.json")):
        for version in VERSIONS:
            path = tmp_path / layer / name / version / name
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x" * 1000)
    (tmp_path / "04_feature" / "embedding_store" / "format-3").mkdir(parents=True)
    return tmp_path


def removed(output, keep, protected=frozenset()):
    return [f"{path.parent.name}/{VERSIONS.index(path.name)}" for path in old_versions(output, keep, set(protected))]


def test_the_newest_versions_inputs_and_the_base_model_stay(output):
    assert removed(output, 3) == ["adapter/0", "adapter/1", "report.html/0", "report.html/1"]
    assert removed(output, 5) == []


def test_adapters_of_registered_models_stay(output):
    assert removed(output, 2, {VERSIONS[0]}) == ["adapter/1", "adapter/2", "report.html/0", "report.html/1", "report.html/2"]


def test_adapters_that_the_facts_left_name_stay(output):
    assert described_adapters(output, 3) == set()
    for version, adapter in zip(VERSIONS, (VERSIONS[0], VERSIONS[1], VERSIONS[1], VERSIONS[1], VERSIONS[4]), strict=True):
        path = output / "08_reporting" / "model_facts.json" / version / "model_facts.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"adapter": {"version": adapter}}))
    assert described_adapters(output, 3) == {VERSIONS[1], VERSIONS[4]}
    assert described_adapters(output, 1) == {VERSIONS[4]}
    path.write_text("{")
    assert described_adapters(output, 2) == {VERSIONS[1]}


def test_unfinished_versions_do_not_count_and_a_run_may_be_writing_the_newest(output):
    for version in (VERSIONS[4], VERSIONS[2]):
        (output / "08_reporting" / "report.html" / version / "report.html").unlink()
    assert removed(output, 3) == ["adapter/0", "adapter/1", "report.html/2"]
    assert removed(output, 1) == ["adapter/0", "adapter/1", "adapter/2", "adapter/3", "report.html/0", "report.html/1", "report.html/2"]


def test_only_what_has_no_other_name_is_freed(output):
    folder = output / "06_models" / "adapter" / VERSIONS[0]
    assert size_of(folder) == 1000
    os.link(folder / "adapter", output / "elsewhere")
    assert size_of(folder) == 0
    remove_folder(folder)
    assert not folder.exists()
    assert (output / "elsewhere").read_bytes() == b"x" * 1000
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
