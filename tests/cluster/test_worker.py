from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.conftest import BARE
from embedding_adaptation.cluster.blocks import read_vectors, write_blocks
from embedding_adaptation.cluster.settings import ClusterError
from embedding_adaptation.cluster.worker import BlockEncoder


def batch_of(blocks):
    return {
        "index": np.arange(len(blocks)),
        "folder": np.array([str(block.folder) for block in blocks], object),
        "number": np.array([block.number for block in blocks]),
        "fingerprint": np.array([block.fingerprint for block in blocks], object),
        "rows": np.array([block.rows for block in blocks]),
    }


@pytest.fixture
def blocks(tmp_path, settings):
    return list(write_blocks([(number, f"text {number}") for number in range(20)], tmp_path / "job", "weights", settings))


def test_a_worker_gives_the_vectors_of_a_single_process(blocks, job, tiny_embedder):
    done = BlockEncoder(job)(batch_of(blocks))
    assert done["index"] == [0, 1, 2]
    assert done["rejected"] == [0, 0, 0]
    vectors = np.concatenate([read_vectors(block)[1]["vector"] for block in blocks])
    expected = tiny_embedder.encode([f"text {number}" for number in range(20)], BARE, progress=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_finished_blocks_are_left_as_they_are(blocks, job, monkeypatch):
    worker = BlockEncoder(job)
    worker(batch_of(blocks[:2]))
    monkeypatch.setattr(worker, "_embed", lambda texts: pytest.fail("it embeds a finished block again"))
    assert worker(batch_of(blocks[:2]))["rejected"] == [0, 0]


def test_texts_that_fail_are_set_aside_and_the_others_kept(blocks, job, monkeypatch):
    worker = BlockEncoder(job)
    embed = worker._embed

    def fussy(texts):
        if "text 3" in texts:
            raise ValueError("bad luck")
        vectors = embed(texts)
        for matrix in vectors.values():
            matrix[[text == "text 5" for text in texts]] = np.nan
        return vectors

    monkeypatch.setattr(worker, "_embed", fussy)
    assert worker(batch_of(blocks))["rejected"] == [2, 0, 0]
    assert read_vectors(blocks[0])[0].tolist() == [0, 1, 2, 4, 6, 7]
    assert pq.read_table(blocks[0].rejected).to_pydict() == {
        "row": [3, 5], "id": ["3", "5"], "reason": ["ValueError: bad luck", "its vector is NaN or infinite"],
    }  # fmt: skip


def test_a_model_that_fails_for_every_text_is_an_error_and_no_set_of_bad_texts(blocks, job, monkeypatch):
    worker = BlockEncoder(job)

    def broken(texts):
        raise ValueError("broken")

    monkeypatch.setattr(worker, "_embed", broken)
    with pytest.raises(ValueError, match="broken"):
        worker(batch_of(blocks))
    assert not any(block.is_finished() for block in blocks)


def test_a_machine_with_another_model_is_refused(job):
    with pytest.raises(ClusterError, match="is not that of the run"):
        BlockEncoder(replace(job, identities={"vector": "another"}))
