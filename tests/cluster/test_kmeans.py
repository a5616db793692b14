from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import adjusted_rand_score

from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.blocks import read_texts, write_blocks, write_vectors
from embedding_adaptation.cluster.kmeans import cluster_files
from embedding_adaptation.cluster.settings import ClusterError, ClusterSettings
from embedding_adaptation.vectors.kmeans import assign, cluster_by_cosine
from embedding_adaptation.vectors.store import VectorStore


def written(vectors, tmp_path, size):
    settings = ClusterSettings(tmp_path, block_texts=size)
    blocks = list(write_blocks([(number, f"text {number}") for number in range(len(vectors))], tmp_path / "job", "weights", settings))
    for block in blocks:
        rows = read_texts(block)
        write_vectors(block, rows, {"vector": vectors[[row.row for row in rows]]}, [])
    return [block.vectors for block in blocks]


def test_groups_are_found_and_every_vector_has_its_label(groups, tmp_path):
    vectors, truth = groups((400, 250, 200, 150))
    files = written(vectors, tmp_path, 128)
    centres = cluster_files(files, 4, seed=0, labels=tmp_path / "labels")
    tables = [pq.read_table(tmp_path / "labels" / file.name) for file in files]
    labels = np.concatenate([table["cluster"].to_numpy() for table in tables])
    assert adjusted_rand_score(truth, labels) == 1.0
    assert np.bincount(labels).tolist() == [400, 250, 200, 150]
    assert [name for table in tables for name in table["id"].to_pylist()] == [str(number) for number in range(1000)]
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.0, atol=1e-6)


def test_centres_hardly_depend_on_the_size_of_files(groups, tmp_path):
    vectors, _ = groups((400, 250, 200, 150))
    many, one = (cluster_files(written(vectors, tmp_path / str(size), size), 4, seed=0) for size in (64, 1000))
    np.testing.assert_allclose(many, one, atol=1e-6)


def test_it_is_as_good_as_mini_batches_where_there_are_no_groups(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(4000, 16)).astype(np.float32)
    store = VectorStore.of(vectors)
    batches = cluster_by_cosine(store, 10, seed=0, full_up_to=1, batch_size=256, epochs=2, starts=5)
    blocks = cluster_files(written(vectors, tmp_path, 500), 10, seed=0)
    assert assign(store, blocks).distances.mean() <= 1.01 * assign(store, batches).distances.mean()


def test_more_clusters_than_vectors_are_refused(groups, tmp_path):
    files = written(groups()[0][:3], tmp_path, 2)
    with pytest.raises(ClusterError, match="3 vectors are too few for 4 clusters"):
        cluster_files(files, 4, seed=0)


@pytest.mark.slow
def test_a_cluster_gives_the_very_centres_and_labels_of_one_process(groups, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    files = written(np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32), tmp_path, 50)
    expected = cluster_files(files, 5, seed=0, labels=tmp_path / "one")
    try:
        found = cluster_files(files, 5, seed=0, labels=tmp_path / "many", settings=ClusterSettings(tmp_path, workers=2))
    finally:
        session.stop(succeeded=False)
    np.testing.assert_array_equal(found, expected)
    for file in files:
        assert pq.read_table(tmp_path / "many" / file.name).equals(pq.read_table(tmp_path / "one" / file.name))
