from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.datasets.adapter import ADAPTER_CARD_FILE
from embedding_adaptation.datasets.chat_server import ChatServerKey
from embedding_adaptation.datasets.clusters import NOISE, Clusters, ClustersDataset
from embedding_adaptation.datasets.vectors import VectorsDataset
from embedding_adaptation.pipelines.text_clustering import nodes
from embedding_adaptation.pipelines.text_clustering.corpus import Census
from embedding_adaptation.pipelines.text_clustering.errors import ClusteringError
from embedding_adaptation.texts.stream import TextStream
from embedding_adaptation.vectors import layout
from embedding_adaptation.vectors.smoothing import smoothed
from embedding_adaptation.vectors.store import VectorStore


def stream(texts, rows=7):
    return TextStream.of(pd.DataFrame({"id": [f"t{n}" for n in range(len(texts))], "text": texts}, dtype=str), rows)


@pytest.fixture
def clustered():
    """Three clusters of eight texts, of which two are equal, and two texts of noise."""
    subjects = [("bus", "late"), ("cake", "oven"), ("tax", "form")]
    texts = [f"the {a} and the {b} number {n // 2}" for a, b in subjects for n in range(8)] + ["stray one", "stray two"]
    labels = np.array([0] * 8 + [1] * 8 + [2] * 8 + [NOISE] * 2, np.int32)
    distances = np.tile(np.linspace(0.1, 0.8, 8), 4)[:26].astype(np.float32)
    return stream(texts), Clusters(labels, distances, np.eye(3, 6, dtype=np.float32), {"method": "kmeans"})


def test_the_corpus_is_embedded_in_shards_with_what_made_them(tiny_weights, make_options, embedder_options, tmp_path, monkeypatch, store):
    corpus = stream([f"text number {n}" for n in range(30)])
    finished = nodes.embed_corpus(corpus, tiny_weights, None, {}, tmp_path / "shards", store, make_options(), embedder_options())
    dataset = VectorsDataset(filepath=str(tmp_path / "shards"))
    dataset.save(finished)
    store = dataset.load()
    assert (store.rows, store.dimension) == (30, 32)
    assert store.facts["weights"] == "base"
    assert store.facts["strategy"] == "prompted_last"
    assert store.facts["weights_reason"] == "there is no adapter"
    nodes.cluster_texts(corpus, store, make_options(clusters=3))
    with pytest.raises(ClusteringError, match="do not belong to the 30 texts of the corpus; run embed_corpus_node again"):
        nodes.cluster_texts(stream([f"other text {n}" for n in range(30)]), store, make_options(clusters=3))


@pytest.fixture
def choose(tiny_weights, make_options):
    """Chooses weights for texts of the given identity: whether these are the adapted ones, and why."""

    def make(adapter, identity="a" * 32, weights=None, facts=None):
        census = Census(40, 40, "", identity)
        model, reason = nodes.choose_weights(tiny_weights, adapter, facts or {}, census, "other.csv", make_options(weights=weights))
        assert model in (tiny_weights, adapter)
        return model is adapter, reason

    return make


@pytest.mark.parametrize("identity", ["a" * 32, "c" * 32], ids=["raw", "clean"])
def test_the_adapter_is_taken_for_the_texts_it_was_trained_on(choose, tiny_adapted, identity, caplog):
    assert choose(tiny_adapted, identity) == (True, "the adapter was trained on these texts, mine.txt (9 clean texts)")
    assert not caplog.records


def test_an_adapter_that_was_found_not_to_help_is_not_taken_unless_the_user_insists(choose, tiny_adapted):
    facts = {"strategy": {"weights": "base"}, "adapter": {"fingerprint": tiny_adapted.fingerprint()}}
    taken, reason = choose(tiny_adapted, facts=facts)
    assert not taken
    assert reason.endswith("but not found to help: the base weights were exported")
    assert choose(tiny_adapted, weights="adapted", facts=facts)[0]
    assert choose(tiny_adapted, facts=facts | {"adapter": {"fingerprint": "another"}})[0]
    assert choose(tiny_adapted, facts=facts | {"strategy": {"weights": "adapted"}})[0]


def test_other_texts_get_the_base_weights_and_are_told_why_unless_the_user_insists(choose, tiny_adapted, caplog):
    why = "the adapter was trained on mine.txt (9 clean texts), not on other.csv (40 texts)"
    assert choose(tiny_adapted, "b" * 32) == (False, why)
    assert f"{why}: texts are embedded with base weights (set text_clustering.weights=adapted to use the adapter anyway)" in caplog.text
    assert choose(tiny_adapted, "b" * 32, "adapted") == (True, f"set by text_clustering.weights, although {why}")
    assert choose(tiny_adapted, "a" * 32, "base") == (False, "set by text_clustering.weights")


def test_an_adapter_that_does_not_say_what_it_was_trained_on_is_not_taken(choose, tiny_adapted, tmp_path):
    shutil.copytree(tiny_adapted.adapter, tmp_path / "adapter")
    card = tmp_path / "adapter" / ADAPTER_CARD_FILE
    card.write_text(json.dumps({key: value for key, value in json.loads(card.read_text()).items() if key != "corpus"}))
    taken, reason = choose(dataclasses.replace(tiny_adapted, adapter=tmp_path / "adapter"))
    assert not taken
    assert "does not say which texts it was trained on, so perhaps not on other.csv" in reason


def test_without_an_adapter_of_this_base_model_there_are_the_base_weights(choose, tiny_adapted):
    foreign = dataclasses.replace(tiny_adapted, card=dataclasses.replace(tiny_adapted.card, sha256="0" * 64))
    assert choose(None) == (False, "there is no adapter")
    taken, reason = choose(foreign)
    assert not taken
    assert "the adapter belongs to" in reason
    for adapter in (None, foreign):
        with pytest.raises(ClusteringError, match=r"text_clustering\.weights is adapted, but .*set it to base"):
            choose(adapter, weights="adapted")


@pytest.mark.parametrize(
    ("texts", "changes", "message"),
    [
        (["one text"], {}, "only 1 distinct text,"),
        (["the same"] * 100, {}, "only 1 distinct text,"),
        (list("abcdefgh"), {"clusters": 9}, "clusters is 9, but there are only 8 distinct texts"),
        (list("abcdefgh"), {}, "too few to choose the number of clusters by stability"),
        (list("abcdefgh"), {"method": "hdbscan"}, "are too few for two clusters of 5"),
    ],
)
def test_unusable_texts_are_said_before_the_model_is_loaded(make_options, embedder_options, tmp_path, texts, changes, message, store):
    with pytest.raises(ClusteringError, match=message):
        nodes.embed_corpus(stream(texts), None, None, {}, tmp_path, store, make_options(**changes), embedder_options())


def test_own_vectors_of_another_number_of_texts_are_refused(make_options):
    with pytest.raises(ClusteringError, match="the 2 vectors in corpus_vectors do not belong to the 3 texts"):
        nodes.cluster_texts(stream(["a", "b", "c"]), VectorStore.of(np.eye(2)), make_options(clusters=2))


def test_the_summary_says_what_each_cluster_is_about(clustered, make_options, tiny_weights, embedder_options):
    corpus, clusters = clustered
    options = make_options(nearest_texts=3, naming={"model": False, "system_prompt": "x", "instruction": "{texts}"})
    profiles = nodes.describe_clusters(corpus, clusters, options)
    summary = nodes.name_clusters(profiles, tiny_weights, ChatServerKey(), options, embedder_options()).set_index("cluster")
    assert summary.index.tolist() == [0, 1, 2, NOISE]
    assert summary["size"].tolist() == [8, 8, 8, 2]
    assert summary.loc[0, "words"] == "bus, late"
    assert summary.loc[1, "name"] == "cake · oven"
    assert summary.loc[NOISE, "name"] == "noise"
    assert summary.loc[0, ["nearest_1", "nearest_2", "nearest_3"]].tolist() == [f"the bus and the late number {n}" for n in (0, 1, 2)]
    assert summary.loc[0, "cohesion"] == pytest.approx(1 - np.linspace(0.1, 0.8, 8).mean(), abs=1e-4)
    assert math.isnan(summary.loc[NOISE, "cohesion"])
    assert summary["share"].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("stop_words", "words"),
    [(None, [["bash"], ["cake"]]), ((), [["in bash"], ["cake"]]), (("bash",), [["in"], ["cake"]])],
)
def test_function_words_are_not_what_a_cluster_is_about_unless_one_says_so(make_options, stop_words, words):
    texts = [f"{n} in bash" for n in range(8)] + [f"{n} cake" for n in range(8)]
    clusters = Clusters(np.repeat([0, 1], 8).astype(np.int32), np.tile(np.linspace(0.1, 0.8, 8), 2), np.eye(2, 6, dtype=np.float32), {})
    found = nodes.describe_clusters(stream(texts), clusters, make_options(words={"count": 2, "stop_words": stop_words}))
    assert [sorted(one) for one in found["words"]] == words


def test_clusters_of_other_texts_are_refused(tiny_weights, make_options, embedder_options, tmp_path, store):
    corpus, others = (stream([f"{what} number {n}" for n in range(30)]) for what in ("text", "other text"))
    dataset = VectorsDataset(filepath=str(tmp_path / "shards"))
    dataset.save(nodes.embed_corpus(corpus, tiny_weights, None, {}, tmp_path / "shards", store, make_options(), embedder_options()))
    vectors = dataset.load()
    clusters, _ = nodes.cluster_texts(corpus, vectors, make_options(clusters=3))
    ClustersDataset(filepath=str(tmp_path / "clusters")).save(clusters)
    clusters = ClustersDataset(filepath=str(tmp_path / "clusters")).load()
    summary = named(0, 1, 2)
    assert len(nodes.list_assignments(corpus, clusters, summary).table()) == 30
    message = (
        "the 30 labels in text_clusters do not belong to the 30 texts of the corpus; run embed_corpus_node and cluster_texts_node again"
    )
    with pytest.raises(ClusteringError, match=message):
        nodes.describe_clusters(others, clusters, make_options())
    with pytest.raises(ClusteringError, match=message):
        nodes.list_assignments(others, clusters, summary)
    with pytest.raises(ClusteringError, match="the 30 vectors in corpus_vectors do not belong to the 30 texts"):
        nodes.map_texts(others, vectors, clusters, summary, make_options())
    fewer = Clusters(clusters.labels[:29], clusters.distances[:29], clusters.centres, clusters.facts)
    with pytest.raises(ClusteringError, match="the 29 labels in text_clusters do not belong to the 30 texts"):
        nodes.map_texts(corpus, vectors, fewer, summary, make_options())
    assert not {"digest", clusters.facts["digest"]} & {*nodes.report_clustering(clusters, summary)}


def named(*clusters):
    frame = pd.DataFrame({"cluster": clusters, "name": [f"name {c}" for c in clusters], "size": 8, "name_source": "words"})
    frame.loc[frame["cluster"] == NOISE, ["name", "name_source"]] = ["noise", ""]
    return frame


def test_every_text_is_listed_with_its_cluster_and_distance(clustered):
    corpus, clusters = clustered
    table = nodes.list_assignments(corpus, clusters, named(0, 1, 2, NOISE)).table()
    assert table.columns.tolist() == ["id", "text", "cluster", "cluster_name", "distance"]
    assert table["id"].tolist() == [f"t{n}" for n in range(26)]
    assert table["text"].tolist() == corpus.table()["text"].tolist()
    assert table["cluster_name"].iloc[[0, 8, 25]].tolist() == ["name 0", "name 1", "noise"]
    np.testing.assert_array_equal(table["distance"], clusters.distances)


def test_the_tree_leaves_noise_out_and_the_report_holds_no_text(clustered):
    _, clusters = clustered
    summary = named(0, 1, 2, NOISE)
    table, figure = nodes.grow_tree(clusters, summary)
    assert table["texts"].tolist() == [16, 24]
    assert len(figure.axes[0].get_yticklabels()) == 3
    said = dataclasses.replace(clusters, facts=clusters.facts | {"smoothing": "none"})
    report = nodes.report_clustering(said, summary)
    assert report["clusters"] == 3
    assert report["smoothing"] == "none"
    assert report["noise_share"] == pytest.approx(2 / 26)
    assert report["named_by_words"] == 3
    assert report["named_by_model"] == 0
    assert not any("bus" in str(value) for value in report.values())


def test_the_curve_is_drawn(make_options):
    curve = pd.DataFrame({"clusters": [2], "agreement": [0.5], "standard_error": [0.1], "pairs": [3], "chosen": [True]})
    assert nodes.plot_stability(curve, make_options()).layout.shapes


@pytest.mark.slow
def test_the_map_shows_a_draw_in_which_every_cluster_is(clustered, make_options):
    corpus, clusters = clustered
    vectors = np.random.default_rng(0).normal(size=(26, 6)).astype(np.float32)
    options = make_options(map={"max_texts": 10, "neighbours": 4})
    figure, points = nodes.map_texts(corpus, VectorStore.of(vectors), clusters, named(0, 1, 2, NOISE), options)
    shown = [len(trace.x) for trace in figure.data]
    assert sum(shown) == len(points)
    assert points["cluster"].tolist() == clusters.labels[points["row"]].tolist()
    assert len(shown) == 4
    assert min(shown[1:]) >= 1
    assert 10 <= sum(shown) <= 13
    assert set(figure.data[1].text) <= set(corpus.table()["text"].iloc[:8])


def test_the_map_shows_the_vectors_that_were_clustered(clustered, make_options, monkeypatch):
    corpus, clusters = clustered
    shown = []
    monkeypatch.setattr(layout, "umap_coordinates", lambda matrix, *_, **__: shown.append(matrix) or np.zeros((len(matrix), 2)))
    store = VectorStore.of(np.random.default_rng(0).normal(size=(26, 6)).astype(np.float32))
    for facts in ({}, {"smoothing_neighbours": 3, "smoothing_rounds": 1}):
        made = dataclasses.replace(clusters, facts=facts)
        nodes.map_texts(corpus, store, made, named(0, 1, 2, NOISE), make_options())
    plain = store.take(np.arange(26))
    np.testing.assert_array_equal(shown[0], plain)
    np.testing.assert_allclose(shown[1], smoothed(plain, neighbours=3), atol=1e-6)
