"""The embedder on a cluster of this machine, against the same embedder in one process."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.conftest import BARE
from embedding_adaptation.cluster import session
from embedding_adaptation.cluster.embedder import ClusterEmbedder
from embedding_adaptation.cluster.settings import ClusterError, ClusterSettings
from embedding_adaptation.embedder.after_processing import AfterProcessing, AfterSteps
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.runtime import base_weights, load_embedder

TEXTS = [f"text number {number}" + " and so on" * (number % 7) for number in range(90)] + ["text number 0", "half \ud800 a pair"]
LOADING = {"device": "cpu", "dtype": "float32", "max_length": 64}


@pytest.fixture(scope="module")
def ray():
    """Ray, stopped at the end; the first test that needs it starts it."""
    yield pytest.importorskip("ray", reason="Ray is not installed")
    session.stop(succeeded=False)


@pytest.fixture
def elsewhere(monkeypatch):
    """Fails if this process embeds instead of the cluster."""
    monkeypatch.setattr(Embedder, "_encode_packed", lambda *_, **__: pytest.fail("this process embeds"))


def on_cluster(weights, tmp_path):
    return ClusterEmbedder.on(ClusterSettings(tmp_path / "blocks", workers=2, min_texts=10, block_texts=16), weights, **LOADING)


@pytest.mark.slow
@pytest.mark.parametrize("without_adapter", [False, True])
def test_vectors_are_those_of_a_single_process(ray, tiny_adapted, tmp_path, monkeypatch, without_adapter):
    prompted = Strategy("prompted", PromptTemplate("word", 'This: "{text}" in one word: "'), "last")
    single = Embedder.load(tiny_adapted, **LOADING)
    fitted = AfterProcessing.fit(single.encode(TEXTS, BARE, progress=False), AfterSteps(centre=1.0, dimensions=8), 1)
    strategies = [prompted, Strategy("after", BARE.template, "mean", after=fitted)]
    cluster = on_cluster(tiny_adapted, tmp_path)
    with base_weights(single) if without_adapter else monkeypatch.context():
        expected = single.encode_strategies(TEXTS, strategies, progress=False)
    monkeypatch.setattr(Embedder, "_encode_packed", lambda *_, **__: pytest.fail("this process embeds"))
    with base_weights(cluster) if without_adapter else monkeypatch.context():
        vectors = cluster.encode_strategies(TEXTS, strategies, progress=False)
    assert list(vectors) == list(expected)
    for name in vectors:
        np.testing.assert_allclose(vectors[name], expected[name], atol=1e-5)


@pytest.mark.slow
def test_shards_are_those_of_a_single_process_and_are_kept(ray, tiny_weights, tmp_path, elsewhere):
    cluster = on_cluster(tiny_weights, tmp_path)
    shards = cluster.encode_to_shards(iter(TEXTS), tmp_path / "shards", BARE, shard_size=40, progress=False)
    written = [shard.stat().st_mtime_ns for shard in shards]
    single = Embedder.load(tiny_weights, **LOADING)
    assert single.encode_to_shards(TEXTS, tmp_path / "shards", BARE, shard_size=40, progress=False) == shards
    assert [shard.stat().st_mtime_ns for shard in shards] == written, "one process would compute them again"


@pytest.mark.slow
def test_parquet_has_every_text_once_and_the_bad_ones_aside(ray, tiny_weights, tmp_path, elsewhere):
    import pandas as pd

    rows = [*enumerate(TEXTS), ("bad", None)]
    made = on_cluster(tiny_weights, tmp_path).encode_to_parquet(rows, tmp_path / "out", BARE, progress=False)
    assert (made.rows, made.rejected, len(made.files)) == (92, 1, 6)
    table = pd.concat(map(pd.read_parquet, made.files))
    assert table["id"].tolist() == [str(number) for number in range(92)]
    assert np.stack(table["vector"]).shape == (92, 32)
    assert pd.read_parquet(made.folder / "rejected")["reason"].tolist() == ["the text is None (NoneType), not a string"]
    written = [file.stat().st_mtime_ns for file in made.files]
    again = on_cluster(tiny_weights, tmp_path).encode_to_parquet(rows[:40], tmp_path / "out", BARE, progress=False)
    assert [file.stat().st_mtime_ns for file in again.files[:2]] == written[:2]
    assert len(list((tmp_path / "out" / "vectors").iterdir())) == len(again.files) == 3
    assert not list((tmp_path / "out" / "rejected").iterdir())


@pytest.mark.slow
def test_a_worker_that_cannot_start_says_why(ray, tiny_weights, tmp_path, monkeypatch):
    cluster = on_cluster(tiny_weights, tmp_path)
    monkeypatch.setattr(cluster, "vectors_identity", lambda *_, **__: "another")
    with pytest.raises(ClusterError, match="is not that of the run"):
        cluster.encode(TEXTS, BARE, progress=False)


def test_few_texts_and_changed_weights_are_embedded_here(tiny_weights, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(session, "connect", lambda _: pytest.fail("it asks for a cluster"))
    cluster = on_cluster(tiny_weights, tmp_path)
    assert cluster.encode(TEXTS[:5], BARE, progress=False).shape == (5, 32)
    assert len(cluster.encode_to_shards(iter(TEXTS[:5]), tmp_path / "few", BARE, progress=False)) == 1
    with torch.no_grad():
        next(iter(cluster.backbone.parameters())).mul_(1.5)
    expected = Embedder.load(tiny_weights, **LOADING).encode(TEXTS, BARE, progress=False)
    assert abs(cluster.encode(TEXTS, BARE, progress=False) - expected).max() > 1e-3
    with pytest.raises(ClusterError, match="changed in memory"):
        cluster.encode_to_parquet(enumerate(TEXTS), tmp_path / "out", BARE)


def test_the_option_chooses_the_embedder(tiny_weights, embedder_options, tmp_path):
    assert type(load_embedder(tiny_weights, embedder_options())) is Embedder
    chosen = load_embedder(tiny_weights, embedder_options(cluster={"folder": str(tmp_path)}))
    assert isinstance(chosen, ClusterEmbedder)
    assert chosen.settings.folder == tmp_path
