from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.pipelines.text_clustering.tree import cluster_linkage, merge_table


def test_near_clusters_join_before_far_ones():
    centres = np.array([[1, 0, 0], [0.95, 0.3122, 0], [0, 0, 1]], np.float32)
    table = merge_table(cluster_linkage(centres), ["a", "b", "c"], [10, 5, 1])
    first, last = table.to_dict("records")
    assert {first["left_name"], first["right_name"]} == {"a", "b"}
    assert {last["left_name"], last["right_name"]} == {"c", "merge 3"}
    assert (first["node"], first["clusters"], first["texts"], first["distance"]) == (3, 2, 15, pytest.approx(0.05, abs=1e-4))
    assert (last["node"], last["clusters"], last["texts"], last["distance"]) == (4, 3, 16, 1.0)


def test_one_cluster_has_no_tree():
    assert merge_table(cluster_linkage(np.eye(1, 3)), ["a"], [3]).empty
