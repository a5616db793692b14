from __future__ import annotations

import numpy as np
import pytest
from kedro.io import Version

from embedding_adaptation.datasets.after_processing import AfterProcessingDataset
from embedding_adaptation.embedder.after_processing import AfterProcessing


@pytest.mark.parametrize("names", [(), ("a", "b.last.-1.whiten")])
def test_after_processing_comes_back_as_it_was_saved(tmp_path, names):
    dataset = AfterProcessingDataset(filepath=str(tmp_path / "after.safetensors"), version=Version(None, "2026-01-01"))
    assert not dataset.exists()
    saved = {
        name: AfterProcessing(np.full(4, i, np.float32), np.eye(4, 2, dtype=np.float32) if i else None, 2 + 2 * (i == 0))
        for i, name in enumerate(names)
    }
    dataset.save(saved)
    assert dataset.exists()
    loaded = dataset.load()
    assert set(loaded) == set(names)
    for name, after in loaded.items():
        assert after.dimensions == saved[name].dimensions
        np.testing.assert_array_equal(after.mean, saved[name].mean)
        assert (after.matrix is None) == (saved[name].matrix is None)
