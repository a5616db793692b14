from __future__ import annotations

import numpy as np
import pytest
from kedro.io import Version
from kedro.io.core import DatasetError

from embedding_adaptation.datasets.clusters import NOISE, Clusters, ClustersDataset


def clusters(labels=(0, 0, 1, NOISE)):
    return Clusters(np.array(labels, np.int32), np.zeros(4, np.float32), np.eye(2, 3, dtype=np.float32), {"method": "kmeans"})


def test_a_clustering_loads_as_it_was_saved(tmp_path):
    dataset = ClustersDataset(filepath=str(tmp_path / "c.safetensors"), version=Version(None, "1"))
    dataset.save(clusters())
    loaded = dataset.load()
    assert dataset.exists()
    assert loaded.labels.tolist() == [0, 0, 1, NOISE]
    assert loaded.sizes.tolist() == [2, 1]
    assert loaded.facts == {"method": "kmeans"}
    np.testing.assert_array_equal(loaded.centres, np.eye(2, 3))


def test_a_damaged_file_says_what_to_run(tmp_path):
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="run text_clustering again"):
        ClustersDataset(filepath=str(tmp_path / "c.safetensors")).load()


def test_arrays_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="do not fit together"):
        clusters((0, 0, 1, 2))
