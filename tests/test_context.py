from __future__ import annotations

import pytest

from embedding_adaptation.context import later_version, versions_of

NOW = "2026-03-01T10.00.00.000Z"


@pytest.mark.parametrize(
    ("others", "version"),
    [
        ((), NOW),
        (("2026-03-01T09.59.59.999Z",), NOW),
        ((NOW,), "2026-03-01T10.00.00.001Z"),
        (("2026-04-01T00.00.00.999Z", "2025-01-01T00.00.00.000Z"), "2026-04-01T00.00.01.000Z"),
        (("mine",), "mine.000001"),
        (("mine", "mine.000009"), "mine.000010"),
        (("mine.999999",), "mine.999999.000001"),
    ],
)
def test_a_version_comes_after_all_that_are_there(others, version):
    assert later_version(NOW, others) == version
    assert not others or version > max(others)


def test_runs_after_a_name_of_somebodys_own_are_counted():
    names = ["best"]
    for _ in range(12):
        names.append(later_version(NOW, names))
    assert names == sorted(names)
    assert names[-1] == "best.000012"


def test_versions_are_those_of_versioned_datasets_with_any_name(tmp_path):
    for name in (
        "table.csv/1/table.csv",
        "base_rows.bin/2/base_rows.bin",
        "base_rows_more/3/base_rows_more",
        "shards/x/shards",
        "table.csv/9/rest",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    catalog = {
        "table": {"filepath": "table.csv", "versioned": True},
        "{space}_rows": {"filepath": str(tmp_path / "{space}_rows.bin"), "versioned": True},
        "shards": {"filepath": "shards"},
        "elsewhere": {"filepath": "s3://bucket/table.csv", "versioned": True},
        "_anchor": "text",
    }
    assert versions_of(catalog, tmp_path) == {"1", "2"}
