"""k-means finds the same clusters with one thread as with several, and the limit ends with its block."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_info, threadpool_limits

from embedding_adaptation.vectors import threads
from embedding_adaptation.vectors.threads import one_thread, threads_of_passes


def counts(kind):
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == kind}


@pytest.fixture(autouse=True)
def two_threads():
    """Two threads in every library, whatever the environment says, and all that other tests have loaded are known."""
    threads._threads.cache_clear()
    with threadpool_limits(2):
        yield


@pytest.mark.parametrize(
    "make", [lambda: MiniBatchKMeans(7, n_init=1, random_state=0, batch_size=64), lambda: KMeans(7, n_init=2, random_state=0)]
)
def test_clusters_do_not_depend_on_threads(make):
    vectors = np.random.default_rng(0).normal(size=(600, 48)).astype(np.float32)
    several = make().fit_predict(vectors)
    with one_thread():
        np.testing.assert_array_equal(make().fit_predict(vectors), several)


def test_the_limit_ends_with_its_block_and_can_be_lifted_within_it():
    before = counts("blas"), counts("openmp")
    assert before == ({2}, {2})
    with one_thread() as lifted:
        assert (counts("blas"), counts("openmp")) == ({1}, {1})
        with lifted():
            assert (counts("blas"), counts("openmp")) == before
        assert (counts("blas"), counts("openmp")) == ({1}, {1})
        with pytest.raises(ValueError, match="inside"), lifted():
            raise ValueError("inside")
        assert (counts("blas"), counts("openmp")) == ({1}, {1})
    assert (counts("blas"), counts("openmp")) == before


def test_long_passes_keep_the_threads_of_scikit_learn():
    with threads_of_passes(threads._WORTH_SHARING - 1):
        assert (counts("blas"), counts("openmp")) == ({1}, {1})
    with threads_of_passes(threads._WORTH_SHARING):
        assert counts("blas") == {1}
        assert 2 in counts("openmp")  # FAISS has an OpenMP of its own, whose threads are those of its BLAS
