"""Nodes of the page about an adaptation: the corpus under base and adapted weights -> maps -> one page."""

from __future__ import annotations

import logging
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.attention.recording import AttentionRecording
from embedding_adaptation.datasets.clusters import Clusters
from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.adaptation_page.options import PageOptions
from embedding_adaptation.repeatable import repeatable
from embedding_adaptation.texts.stream import TextStream
from embedding_adaptation.verdict.options import VerdictOptions

logger = logging.getLogger(__name__)

_POINT_COLUMNS = ["row", "id", "text", "cluster", "base_x", "base_y", "adapted_x", "adapted_y"]
_ATTENTION_COLUMNS = ["text", "part", "word", "start", "end", "base", "adapted", "cut"]


class PageError(ValueError):
    """Results that do not belong together; the message says what to run."""


@repeatable
def compare_weights(
    corpus: TextStream,
    text_clusters: Clusters,
    base_model: DecoderWeights,
    adapter: DecoderWeights,
    embedding_store: EmbeddingStore,
    options: PageOptions,
    embedder_options: EmbedderOptions,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Map texts under base and adapted weights, and find those whose neighbours changed most.

    Both sides use the strategy of the clusters, or its counterpart.

    Args:
        corpus: The texts.
        text_clusters: Their clusters.
        base_model: The base weights.
        adapter: The base weights with the adapter.
        embedding_store: Vectors of texts.
        options: How many texts.
        embedder_options: Templates and strategies.

    Returns:
        One row per text on the map: ``row`` of the corpus, ``id``, ``text``, ``cluster``, ``base_x``, ``base_y``, ``adapted_x``,
        ``adapted_y``; and one row per text, side and neighbour: ``text``, ``side`` (base or adapted), ``rank``, ``neighbour``.

    Raises:
        PageError: If the clusters belong to other texts, or a strategy has no counterpart.
    """
    from embedding_adaptation.embedder.embedder import finish_vectors
    from embedding_adaptation.pipelines.adaptation_page.comparison import FEWEST, aligned_maps, most_moved
    from embedding_adaptation.runtime import fitted_strategies, load_embedder, read_once
    from embedding_adaptation.vectors.unit import unit_vectors

    total = sum(len(piece) for piece in corpus.pieces())
    if total != len(text_clusters.labels):
        msg = (
            f"the {len(text_clusters.labels)} labels in text_clusters do not belong to the {total} texts of the corpus; run "
            "text_clustering again, or give the corpus they were made from (--params corpus=PATH)"
        )
        raise PageError(msg)
    sample = corpus.sample(options.max_texts, options.seed)
    drawn = set(sample["id"])
    places = {text_id: row for row, (text_id, _) in enumerate(corpus.rows()) if text_id in drawn}
    rows = [places[text_id] for text_id in sample["id"]]
    texts = sample["text"].tolist()
    vectors = {}

    def fitting_texts() -> list[str]:
        return corpus.sample(options.fitting_texts, options.seed)["text"].tolist()

    for name, weights in zip(twins(text_clusters.facts, embedder_options), (base_model, adapter), strict=True):
        embedder = load_embedder(weights, embedder_options)
        chosen = {name: embedder_options.every_strategy[name]}
        (strategy,) = fitted_strategies(embedder, chosen, embedder_options, fitting_texts, embedding_store)
        plain = replace(strategy, after=None)
        read = read_once(embedder, texts, [plain], embedding_store)[name]
        vectors[chosen[name].weights] = unit_vectors(finish_vectors(read, strategy))
    base, adapted = vectors["base"], vectors["adapted"]
    moved = [
        (texts[row], side, rank, texts[neighbour])
        for row, before, after in most_moved(base, adapted, options)
        for side, neighbours in (("base", before), ("adapted", after))
        for rank, neighbour in enumerate(neighbours)
    ]
    neighbours = pd.DataFrame(moved, columns=["text", "side", "rank", "neighbour"])
    if len(texts) < FEWEST:
        logger.warning("%d texts are too few for a map", len(texts))
        return pd.DataFrame(columns=_POINT_COLUMNS), neighbours
    one, other = aligned_maps(base, adapted, options)
    points = sample[["id", "text"]].assign(row=rows, cluster=text_clusters.labels[rows])
    points[["base_x", "base_y"]], points[["adapted_x", "adapted_y"]] = one, other
    return points[_POINT_COLUMNS].reset_index(drop=True), neighbours


def twins(facts: dict[str, Any], embedder_options: EmbedderOptions) -> tuple[str, str]:
    """The strategy of the clusters and its counterpart: with base weights, and with adapted ones.

    Raises:
        PageError: If the clusters were made of vectors of one's own, or there is no counterpart.
    """
    every, name = embedder_options.every_strategy, facts.get("strategy")
    if name not in every:
        msg = f"the clusters' strategy is {name!r}, which is not defined; run text_clustering again with a strategy of embedder.strategies"
        raise PageError(msg)
    if every[name].weights == "adapted":
        twin = embedder_options.base_twin(name, every)
        pair = (twin, name)
    else:
        twin = next((other for other in every if every[other].weights == "adapted" and embedder_options.base_twin(other, [name])), None)
        pair = (name, twin)
    if twin is None:
        msg = f"strategy {name!r} of the clusters has no counterpart with the other weights; add one to embedder.strategies"
        raise PageError(msg)
    return str(pair[0]), str(pair[1])


@repeatable
def attention_of_moved_texts(
    moved_texts: pd.DataFrame, adapter: DecoderWeights, options: PageOptions, embedder_options: EmbedderOptions
) -> pd.DataFrame:
    """Record what the last token attends to in the texts that changed most, under the template of fine-tuning.

    Args:
        moved_texts: The second result of :func:`compare_weights`.
        adapter: The base weights with the adapter.
        options: How many of the texts, and whether the page may show them.
        embedder_options: The template.

    Returns:
        One row per text and word of its prompt: ``text``, ``part``, ``word``, ``start`` and ``end`` (its characters in the text, -1 outside
        it), ``base`` and ``adapted`` (mean share of attention over layers and heads), ``cut`` (whether the end of the text did not fit).
        Empty if the model has no attention that can be recorded, or if the page may show no texts.
    """
    from embedding_adaptation.attention.comparison import paired_words
    from embedding_adaptation.attention.rows import AttentionError
    from embedding_adaptation.attention.shares import Spans, measure_words
    from embedding_adaptation.runtime import base_weights, build_strategy, load_embedder

    texts = moved_texts["text"].drop_duplicates().head(options.attention_texts).tolist()
    if not texts or options.private:
        return pd.DataFrame(columns=_ATTENTION_COLUMNS)
    template = build_strategy(embedder_options.adapt, embedder_options).templates[0]
    embedder = load_embedder(adapter, embedder_options)
    sides = []
    for weights in (base_weights(embedder), nullcontext()):
        with weights, tempfile.TemporaryDirectory(prefix=scratch_prefix()) as folder:
            try:
                recording = AttentionRecording(embedder, template, texts, map(str, range(len(texts))), progress=False)
            except AttentionError as error:
                logger.warning("The page shows no attention: %s", error)
                return pd.DataFrame(columns=_ATTENTION_COLUMNS)
            sides.append(pd.concat(measure_words(recording.write(Path(folder)), Spans()), ignore_index=True))
    words = paired_words(*sides)
    return words.assign(text=[texts[int(text_id)] for text_id in words["id"]])[_ATTENTION_COLUMNS]


@repeatable
def find_questions(
    adapter: DecoderWeights,
    clean_corpus: TextStream,
    embedding_store: EmbeddingStore,
    options: PageOptions,
    verdict_options: VerdictOptions,
    embedder_options: EmbedderOptions,
) -> dict[str, Any]:
    """Find the questions that ``kedro ask`` would put, for the page.

    Args:
        adapter: The base weights with the adapter.
        clean_corpus: The texts.
        embedding_store: Vectors of texts.
        options: Whether texts may be shown; if not, there are no questions.
        verdict_options: How many questions, and among which texts.
        embedder_options: The strategy.

    Returns:
        ``adapter`` and ``questions``, see :func:`~embedding_adaptation.verdict.questions.questions_table`; what
        ``kedro ask --save-questions`` writes.
    """
    from embedding_adaptation.verdict.asking import questions_about
    from embedding_adaptation.verdict.questions import questions_table

    private = options.private
    questions = [] if private else questions_about(adapter, clean_corpus, verdict_options, embedder_options, embedding_store)
    return questions_table(adapter.fingerprint(), questions)


def write_adaptation_page(
    corpus: TextStream,
    adaptation_points: pd.DataFrame,
    moved_texts: pd.DataFrame,
    moved_attention: pd.DataFrame,
    questions: dict[str, Any],
    text_clusters: Clusters,
    cluster_summary: pd.DataFrame,
    adapter: DecoderWeights,
    model_facts: dict[str, Any],
    verdict: dict[str, Any],
    training_report: dict[str, Any],
    training_history: pd.DataFrame,
    augmentation_report: dict[str, Any],
    options: PageOptions,
    verdict_options: VerdictOptions,
) -> str:
    """Write one page about the adaptation.

    Args:
        corpus: The texts.
        adaptation_points: The first result of :func:`compare_weights`.
        moved_texts: The second.
        moved_attention: The result of :func:`attention_of_moved_texts`.
        questions: The result of :func:`find_questions`.
        text_clusters: Clusters of the texts.
        cluster_summary: Their descriptions.
        adapter: The adapted weights.
        model_facts: What was exported.
        verdict: Whether adaptation helped.
        training_report: How the adapter was trained.
        training_history: Its steps.
        augmentation_report: The pairs.
        options: Whether texts may be shown.
        verdict_options: When answers to the questions decide.

    Returns:
        An HTML document.

    Raises:
        PageError: If nothing was exported, or the reports are about another adapter.
    """
    from embedding_adaptation.pages.adaptation import MovedText, Reports, adaptation_page

    fingerprint = adapter.fingerprint()
    about = {
        "model_facts": (model_facts.get("adapter", {}).get("fingerprint"), "--pipelines=model_export"),
        "training_report": (training_report["adapter"], "--pipelines=model_export"),
        "questions": (questions["adapter"], "--nodes=find_questions_node"),
    }
    for name, (described, remedy) in about.items():
        if described != fingerprint:
            msg = (
                f"{name} is not about the newest adapter; run 'kedro run {remedy}' first, or load matching versions with "
                f"--load-versions=adapter:VERSION,{name}:VERSION"
            )
            raise PageError(msg)
    known = verdict if verdict.get("adapter") == fingerprint else {}
    moved = [
        MovedText(
            str(text),
            *(tuple(rows[rows["side"] == side].sort_values("rank")["neighbour"].tolist()) for side in ("base", "adapted")),
        )
        for text, rows in moved_texts.groupby("text", sort=False)
    ]
    reports = Reports(model_facts, known, training_report, training_history, augmentation_report, text_clusters.facts)
    return adaptation_page(
        reports,
        adaptation_points,
        cluster_summary,
        moved,
        moved_attention,
        (questions, verdict_options.questions),
        total=len(text_clusters.labels),
        corpus=corpus.name,
        private=options.private,
    )
