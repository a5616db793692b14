from __future__ import annotations

import pytest
from kedro.io import Version
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.reports import OptionalReportDataset


@pytest.mark.parametrize("version", [None, Version(None, "1")])
def test_a_report_that_is_not_there_loads_as_an_empty_one_until_it_is(tmp_path, version):
    dataset = OptionalReportDataset(filepath=str(tmp_path / "r.json"), version=version)
    assert dataset.load() == {}
    dataset.save({"texts": 3})
    assert dataset.load() == {"texts": 3}


def test_a_version_that_is_asked_for_has_to_be_there(tmp_path):
    OptionalReportDataset(filepath=str(tmp_path / "r.json"), version=Version(None, "1")).save({})
    with pytest.raises(DatasetError):
        OptionalReportDataset(filepath=str(tmp_path / "r.json"), version=Version("2", None)).load()
