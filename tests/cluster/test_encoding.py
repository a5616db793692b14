from __future__ import annotations

from pathlib import Path

import pytest

from embedding_adaptation.cluster import encoding
from embedding_adaptation.cluster.blocks import read_texts, write_blocks, write_vectors
from embedding_adaptation.cluster.settings import ClusterError


def test_finished_blocks_need_no_cluster(tmp_path, settings, job, monkeypatch):
    import numpy as np

    blocks = list(write_blocks([(number, f"text {number}") for number in range(20)], tmp_path, "weights", settings))
    for block in blocks:
        rows = read_texts(block)
        write_vectors(block, rows, {"vector": np.ones((len(rows), 2), np.float32)}, [])
    monkeypatch.setattr(encoding.session, "connect", lambda _: pytest.fail("it asks for a cluster"))
    assert list(encoding.encode_blocks(blocks, job, settings, progress=False)) == blocks


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError(f"died\n  File ...\n{ClusterError.__module__}.ClusterError: the model differs"), "the model differs"),
        (ClusterError("as it is"), "as it is"),
        (OSError("no disk\nand more"), "work on the cluster failed (OSError: no disk); run again: what is finished stays in there"),
    ],
)
def test_an_error_of_a_worker_is_told_in_its_own_words(error, message):
    outer = RuntimeError("a task failed")
    outer.__cause__ = error
    told = encoding._translated(outer, Path("there"))
    assert isinstance(told, ClusterError)
    assert str(told) == message
