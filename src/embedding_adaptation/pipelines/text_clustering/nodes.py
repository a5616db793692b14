"""Nodes of text clustering: unlabelled texts -> vectors -> clusters -> descriptions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from embedding_adaptation.datasets.adapter import adapter_corpus
from embedding_adaptation.datasets.chat_server import ChatServerKey
from embedding_adaptation.datasets.clusters import NOISE, Clusters
from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.datasets.vectors import FinishedShards
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.figures import Figure, PlotlyFigure
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.text_clustering.corpus import Census, check_number, count_texts, rows_at, texts_at
from embedding_adaptation.pipelines.text_clustering.errors import ClusteringError
from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
from embedding_adaptation.repeatable import repeatable, repeatable_unless
from embedding_adaptation.texts.stream import TableStream, TextStream
from embedding_adaptation.vectors.store import VectorStore

logger = logging.getLogger(__name__)

NOISE_NAME = "noise"


def _asks_a_server(*arguments: Any) -> bool:
    """Whether a server names clusters."""
    options: TextClusteringOptions = arguments[-2]
    return options.naming.server is not None


@repeatable
def embed_corpus(
    corpus: TextStream,
    base_model: DecoderWeights,
    trained_adapter: DecoderWeights | None,
    model_facts: dict[str, Any],
    corpus_shards: Path,
    embedding_store: EmbeddingStore,
    options: TextClusteringOptions,
    embedder_options: EmbedderOptions,
) -> FinishedShards:
    """Embed the corpus under one strategy, shard by shard; existing shards for the same texts, weights and strategy are kept.

    Args:
        corpus: Unlabelled texts.
        base_model: The base weights.
        trained_adapter: The base weights with an adapter, if any.
        model_facts: What was exported; empty if nothing was.
        corpus_shards: The folder for the shards.
        embedding_store: Vectors of texts that after-processing is fitted on, or that other pipelines have read.
        options: Weights and strategy.
        embedder_options: Templates and strategies.

    Returns:
        The shards, and how they were made.

    Raises:
        ClusteringError: If there are too few texts for the options, or a required adapter is missing.
    """
    from embedding_adaptation.runtime import fitted_strategies, load_embedder, read_known

    options.check(embedder_options, lambda _: trained_adapter is not None)
    census = count_texts(corpus)
    check_number(census.distinct, options)
    model, reason = choose_weights(base_model, trained_adapter, model_facts, census, corpus.name, options)
    weights: Literal["base", "adapted"] = "base" if model.adapter is None else "adapted"
    name = options.strategy(weights)
    logger.info("embedding %d texts (%d distinct) under %s with %s weights: %s", census.texts, census.distinct, name, weights, reason)
    embedder = load_embedder(model, embedder_options)

    def fitting_texts() -> list[str]:
        return corpus.sample(options.fitting_texts, options.seed)["text"].tolist()

    (strategy,) = fitted_strategies(
        embedder, {name: embedder_options.every_strategy[name]}, embedder_options, fitting_texts, embedding_store
    )

    def encode(texts: Sequence[str]) -> np.ndarray:
        return read_known(embedder, texts, strategy, embedding_store)

    shards = embedder.encode_to_shards((text for _, text in corpus.rows()), corpus_shards, strategy, encode=encode)
    facts = {
        "texts": census.texts,
        "distinct": census.distinct,
        "digest": census.digest,
        "weights": weights,
        "weights_reason": reason,
        "strategy": name,
        "model": model.card.source,
        "fingerprint": model.fingerprint(),
    }
    return FinishedShards(tuple(shards), facts)


def choose_weights(
    base: DecoderWeights,
    adapted: DecoderWeights | None,
    model_facts: dict[str, Any],
    census: Census,
    corpus_name: str,
    options: TextClusteringOptions,
) -> tuple[DecoderWeights, str]:
    """Choose base or adapted weights.

    As the options say, or else adapted ones only if the adapter was trained on these very texts, and was not found to be of no help.

    Args:
        base: The base weights.
        adapted: The base weights with an adapter, if any.
        model_facts: What was exported, see dataset ``model_facts``; empty if nothing was.
        census: The texts to be clustered.
        corpus_name: Their name.
        options: The requested weights, if any.

    Returns:
        The weights, and the reason for the choice in words.

    Raises:
        ClusteringError: If adapted weights are requested, but there is no adapter for this base model.
    """
    if options.weights == "base":
        return base, "set by text_clustering.weights"
    if adapted is None or not adapted.shares_base(base):
        reason = (
            "there is no adapter" if adapted is None else f"the adapter belongs to {adapted.card.source!r}, not to {base.card.source!r}"
        )
        if options.weights == "adapted":
            msg = (
                f"text_clustering.weights is adapted, but {reason}; run 'kedro run --pipelines=data_augmentation,contrastive_finetuning' "
                "first, or set it to base"
            )
            raise ClusteringError(msg)
        return base, reason
    corpus = adapter_corpus(adapted)
    if corpus is not None and corpus.is_of(census.identity):
        if options.weights is None and _was_rejected(adapted, model_facts):
            return base, f"the adapter was trained on these texts, {corpus.title}, but not found to help: the base weights were exported"
        return adapted, f"the adapter was trained on these texts, {corpus.title}"
    texts = corpus_name or "these texts"
    if corpus is None:
        mismatch = f"the adapter does not say which texts it was trained on, so perhaps not on {texts}"
    else:
        mismatch = f"the adapter was trained on {corpus.title}, not on {texts} ({census.texts:,} texts)"
    if options.weights == "adapted":
        logger.warning("text_clustering.weights is adapted, although %s", mismatch)
        return adapted, f"set by text_clustering.weights, although {mismatch}"
    logger.warning("%s: texts are embedded with base weights (set text_clustering.weights=adapted to use the adapter anyway)", mismatch)
    return base, mismatch


def _was_rejected(adapted: DecoderWeights, model_facts: dict[str, Any]) -> bool:
    """Whether the base weights were exported instead of this adapter."""
    return (
        bool(model_facts)
        and model_facts["strategy"]["weights"] == "base"
        and model_facts["adapter"]["fingerprint"] == adapted.fingerprint()
    )


@repeatable
def cluster_texts(corpus: TextStream, corpus_vectors: VectorStore, options: TextClusteringOptions) -> tuple[Clusters, pd.DataFrame]:
    """Cluster the texts and measure how stable the clusters are.

    Args:
        corpus: The texts.
        corpus_vectors: Their vectors.
        options: Method and number of clusters.

    Returns:
        The clusters, and one row per number of clusters tried, see :func:`.clustering.cluster_vectors`.

    Raises:
        ClusteringError: If the vectors belong to other texts, or cannot be clustered according to the options.
    """
    from embedding_adaptation.pipelines.text_clustering.clustering import cluster_vectors

    census = count_texts(corpus)
    _check_vectors(census, corpus_vectors)
    check_number(census.distinct, options)
    clusters, curve = cluster_vectors(corpus_vectors, options)
    facts = corpus_vectors.facts | {"texts": census.texts, "distinct": census.distinct, "digest": census.digest} | clusters.facts
    logger.info("%d clusters from %d texts, the largest with %d", len(clusters.centres), census.texts, clusters.sizes.max())
    return Clusters(clusters.labels, clusters.distances, clusters.centres, facts), curve


def _check_vectors(census: Census, vectors: VectorStore) -> None:
    """Check that the vectors belong to these texts and not to those of an earlier run.

    Raises:
        ClusteringError: If they do not.
    """
    if census.texts != vectors.rows or vectors.facts.get("digest", census.digest) != census.digest:
        msg = (
            f"the {vectors.rows} vectors in corpus_vectors do not belong to the {census.texts} texts of the corpus; run embed_corpus_node "
            "again, or give the corpus they were made from (--params corpus=PATH)"
        )
        raise ClusteringError(msg)


def _check_clusters(census: Census, clusters: Clusters) -> None:
    """Check that the clusters belong to these texts.

    Raises:
        ClusteringError: If they do not.
    """
    if census.texts != len(clusters.labels) or clusters.facts.get("digest", census.digest) != census.digest:
        msg = (
            f"the {len(clusters.labels)} labels in text_clusters do not belong to the {census.texts} texts of the corpus; run "
            "embed_corpus_node and cluster_texts_node again, or give the corpus they were made from (--params corpus=PATH)"
        )
        raise ClusteringError(msg)


@repeatable
def plot_stability(cluster_stability: pd.DataFrame, options: TextClusteringOptions) -> PlotlyFigure:
    """Plot the agreement of resamples over the number of clusters."""
    from embedding_adaptation.pipelines.text_clustering.figures import stability_figure

    return stability_figure(cluster_stability, options.method)


@repeatable
def describe_clusters(corpus: TextStream, text_clusters: Clusters, options: TextClusteringOptions) -> pd.DataFrame:
    """Compute sizes, cohesion, nearest texts and distinctive words; see :func:`.profiles.profile_clusters`."""
    from embedding_adaptation.pipelines.text_clustering.profiles import profile_clusters

    _check_clusters(count_texts(corpus), text_clusters)
    return profile_clusters(corpus, text_clusters, options)


@repeatable_unless(_asks_a_server)
def name_clusters(
    cluster_profiles: pd.DataFrame,
    base_model: DecoderWeights,
    chat_server: ChatServerKey,
    options: TextClusteringOptions,
    embedder_options: EmbedderOptions,
) -> pd.DataFrame:
    """Give every cluster a name.

    Args:
        cluster_profiles: The result of :func:`describe_clusters`.
        base_model: The model that proposes names if it is large enough.
        chat_server: The key of the server that proposes names instead, if any.
        options: Who proposes names, and the request.
        embedder_options: Device and number format.

    Returns:
        One row per cluster, noise (-1) last: ``cluster``, ``name``, ``name_source`` (model or words), ``size``, ``share`` of all texts,
        ``cohesion`` (mean cosine to the centre), ``words``, and the nearest texts ``nearest_1``, ``nearest_2`` and so on.
    """
    from embedding_adaptation.pipelines.text_clustering import naming

    proper = cluster_profiles[cluster_profiles["cluster"] != NOISE]
    names = naming.name_clusters(
        proper["nearest"].tolist(), proper["words"].tolist(), base_model, options.naming, embedder_options, key=chat_server.value
    )
    noise = len(cluster_profiles) - len(proper)
    summary = cluster_profiles[["cluster", "size", "share", "cohesion"]].copy()
    summary.insert(1, "name", [name.name for name in names] + [NOISE_NAME] * noise)
    summary.insert(2, "name_source", [name.source for name in names] + [""] * noise)
    summary["words"] = cluster_profiles["words"].map(", ".join)
    for number in range(options.nearest_texts):
        summary[f"nearest_{number + 1}"] = [texts[number] if number < len(texts) else "" for texts in cluster_profiles["nearest"]]
    return summary


def list_assignments(corpus: TextStream, text_clusters: Clusters, cluster_summary: pd.DataFrame) -> TableStream:
    """List the cluster of each text.

    Args:
        corpus: The texts.
        text_clusters: Their clusters.
        cluster_summary: Names of the clusters.

    Returns:
        One row per text, in the order of the corpus: ``id``, ``text``, ``cluster`` (-1 for noise), ``cluster_name`` and ``distance``, the
        cosine distance to the cluster's centre (for noise, to the nearest centre).
    """
    _check_clusters(count_texts(corpus), text_clusters)
    names = dict(zip(cluster_summary["cluster"].tolist(), cluster_summary["name"].tolist(), strict=True))

    def pieces() -> Iterator[pd.DataFrame]:
        first = 0
        for piece in corpus.pieces():
            span = slice(first, first + len(piece))
            first += len(piece)
            labels = text_clusters.labels[span]
            yield pd.DataFrame(
                {
                    "id": piece["id"].to_numpy(),
                    "text": piece["text"].to_numpy(),
                    "cluster": labels,
                    "cluster_name": [names[label] for label in labels.tolist()],
                    "distance": text_clusters.distances[span],
                }
            )

    return TableStream(pieces)


@repeatable
def map_texts(
    corpus: TextStream,
    corpus_vectors: VectorStore,
    text_clusters: Clusters,
    cluster_summary: pd.DataFrame,
    options: TextClusteringOptions,
) -> tuple[PlotlyFigure, pd.DataFrame]:
    """Plot the texts in two dimensions; if there are very many, a random draw that includes every cluster.

    Args:
        corpus: The texts.
        corpus_vectors: Their vectors.
        text_clusters: Their clusters.
        cluster_summary: Names and sizes of the clusters.
        options: Number of texts, and UMAP's options.

    Returns:
        The map, and its points: ``row`` of the corpus, ``cluster``, ``x`` and ``y``.
    """
    from embedding_adaptation.pipelines.text_clustering.clustering import draw
    from embedding_adaptation.pipelines.text_clustering.figures import text_map
    from embedding_adaptation.pipelines.text_clustering.profiles import nearest_rows
    from embedding_adaptation.pipelines.text_clustering.smoothing import Smoothing
    from embedding_adaptation.vectors.layout import umap_coordinates

    census = count_texts(corpus)
    _check_vectors(census, corpus_vectors)
    _check_clusters(census, text_clusters)
    drawn = draw(corpus_vectors.rows, options.map.max_texts, options.seed)
    rows = np.unique(np.concatenate([drawn, *nearest_rows(text_clusters, 1)]))
    vectors = Smoothing.recorded(text_clusters.facts).store(corpus_vectors)  # the space in which they were clustered
    coordinates = umap_coordinates(
        vectors.take(rows), 2, neighbours=options.map.neighbours, min_distance=options.map.min_distance, seed=options.seed
    )
    texts = texts_at(corpus, rows.tolist())
    figure = text_map(
        coordinates,
        text_clusters.labels[rows],
        [texts[row] for row in rows.tolist()],
        cluster_summary,
        hover_characters=options.map.hover_characters,
        total=corpus_vectors.rows,
    )
    points = {"row": rows, "cluster": text_clusters.labels[rows], "x": coordinates[:, 0], "y": coordinates[:, 1]}
    return figure, pd.DataFrame(points)


@repeatable
def grow_tree(text_clusters: Clusters, cluster_summary: pd.DataFrame) -> tuple[pd.DataFrame, Figure]:
    """Merge similar clusters step by step.

    Args:
        text_clusters: The clusters.
        cluster_summary: Their names.

    Returns:
        One row per merge (see :func:`.tree.merge_table`), and the tree as a figure.
    """
    from embedding_adaptation.pipelines.text_clustering.figures import cluster_tree
    from embedding_adaptation.pipelines.text_clustering.tree import cluster_linkage, merge_table

    names = cluster_summary.loc[cluster_summary["cluster"] != NOISE, "name"].astype(str).tolist()
    sizes = text_clusters.sizes.tolist()
    links = cluster_linkage(text_clusters.centres)
    return merge_table(links, names, sizes), cluster_tree(links, names, sizes)


def write_clusters_page(
    corpus: TextStream,
    text_clusters: Clusters,
    cluster_summary: pd.DataFrame,
    cluster_tree: pd.DataFrame,
    map_points: pd.DataFrame,
    options: TextClusteringOptions,
) -> str:
    """Write a page with the map, the clusters and the texts.

    Args:
        corpus: The texts.
        text_clusters: Their clusters.
        cluster_summary: Descriptions of the clusters.
        cluster_tree: Merges of similar clusters.
        map_points: The points of the map.
        options: Number of texts in the page, and whether these may be shown.

    Returns:
        An HTML document.
    """
    from embedding_adaptation.pages.clusters import clusters_page
    from embedding_adaptation.pipelines.text_clustering.clustering import NO_STRUCTURE

    _check_clusters(count_texts(corpus), text_clusters)
    on_map = set(map_points["row"].tolist())
    more = [row for row in range(len(text_clusters.labels)) if row not in on_map][: max(0, options.page_texts - len(on_map))]
    rows = [*map_points["row"].tolist(), *more]
    ids, texts = rows_at(corpus, rows)
    table = pd.DataFrame({"id": ids, "text": texts, "cluster": text_clusters.labels[rows]})
    return clusters_page(
        table.head(len(on_map)).assign(x=map_points["x"].to_numpy(), y=map_points["y"].to_numpy()),
        cluster_summary,
        cluster_tree,
        text_clusters.facts | {"texts": len(text_clusters.labels)},
        others=table.iloc[len(on_map) :],
        corpus=corpus.name,
        private=options.private,
        no_structure=text_clusters.facts.get("structure") == NO_STRUCTURE,
    )


def report_clustering(text_clusters: Clusters, cluster_summary: pd.DataFrame) -> dict[str, Any]:
    """Summarise the clustering in numbers, without any text.

    Args:
        text_clusters: The clusters.
        cluster_summary: Their descriptions.

    Returns:
        Model, strategy, smoothing, method, numbers of texts and clusters, share of noise, mean cohesion, agreement of resamples, names by
        source.
    """
    members = text_clusters.labels != NOISE
    sources = cluster_summary["name_source"].value_counts()
    return {
        **{name: value for name, value in text_clusters.facts.items() if name != "digest"},
        "clusters": len(text_clusters.centres),
        "largest": int(text_clusters.sizes.max()),
        "smallest": int(text_clusters.sizes.min()),
        "noise_share": float((~members).mean()),
        "cohesion": float(1.0 - text_clusters.distances[members].mean()),
        "named_by_model": int(sources.get("model", 0)),
        "named_by_words": int(sources.get("words", 0)),
    }
