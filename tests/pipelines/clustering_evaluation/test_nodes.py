from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.datasets.embeddings import Embeddings
from embedding_adaptation.datasets.task_mirror import TaskMirror
from embedding_adaptation.embedder.after_processing import AfterProcessing, AfterSteps
from embedding_adaptation.pipelines.clustering_evaluation import nodes
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.nodes import (
    align_vectors,
    collect_mteb_results,
    compare_strategies,
    gather_scores,
    plan_evaluation,
    plot_cluster_map,
    plot_comparison,
    plot_heatmap,
    plot_seeds,
    score_cells,
    tabulate_scores,
)

TEXTS = pd.DataFrame({"id": [str(n) for n in range(40)], "text": [f"t{n}" for n in range(40)], "label": ["ab"[n % 2] for n in range(40)]})
IDS = tuple(TEXTS["id"])
NEWS = "mteb/twentynewsgroups-clustering"
PUBLISHED = pd.DataFrame([{"model": "famous", "tasks": "TwentyNewsgroupsClustering.v2", "score": 60.0, "source": "somewhere"}])


def embeddings(*names, ids=IDS):
    rng = np.random.default_rng(0)
    return Embeddings(ids, {name: rng.normal(size=(len(ids), 6)).astype(np.float32) for name in names})


@pytest.fixture
def sources(tmp_path, tiny_weights, tiny_adapted, embedder_options):
    """What planning and scoring take before their options."""

    def make(base=("bare_mean", "prompted_last"), adapted=("prompted_last_adapted",), mirror=None, finished=None, embedder=None, **changes):
        values = {
            "base_embeddings": embeddings(*base),
            "adapted_embeddings": embeddings(*adapted),
            "labelled_texts": TEXTS,
            "base_model": tiny_weights,
            "adapter": tiny_adapted,
        }
        labelled = align_vectors(**(values | changes), embedder_options=embedder or embedder_options())
        return labelled, EmbeddingStore(tmp_path / "store"), TaskMirror(mirror), finished or {}

    return make


@pytest.mark.slow
def test_from_vectors_and_tasks_to_tables_figures_and_result_files(sources, mirror, evaluation_options, embedder_options, tmp_path):
    options, embedder = evaluation_options(tasks=["labelled_texts", "TwentyNewsgroupsClustering.v2"]), embedder_options()
    given = sources(mirror=mirror(NEWS))
    planned = plan_evaluation(*given, options, embedder)
    assert planned.groupby("task", sort=False)["seed"].unique().map(list).to_dict() == {
        "labelled_texts": [0, 1],
        "TwentyNewsgroupsClustering.v2": [42],
    }
    cells = {}
    for cell in score_cells(planned, *given, options, embedder):
        cells |= cell
    assert len(planned) == 3 * 5
    assert set(cells) == set(planned["cell"])
    again = sources(mirror=tmp_path / "mirror", finished=cells)
    assert list(score_cells(planned, *again, options, embedder)) == []
    scored = gather_scores(planned, cells)
    long, others = tabulate_scores(scored)
    assert set(long["task"]) == {"labelled_texts", "TwentyNewsgroupsClustering.v2"}
    assert others.empty
    comparison, differences, pivoted = compare_strategies(scored, PUBLISHED, options, embedder)
    assert comparison["task"].unique().tolist() == ["labelled_texts", "TwentyNewsgroupsClustering.v2", "all tasks"]
    assert {"random", "tfidf_svd", "famous", "prompted_last_adapted"} <= set(comparison["strategy"])
    assert set(differences["question"]) == {"baseline", "adaptation", "best"}
    assert pivoted.shape == (6, 4)
    results = collect_mteb_results(scored, options, embedder)
    ours = ("bare_mean", "prompted_last", "prompted_last_adapted")
    assert [model.name for model in results.models] == [f"local/embedding-adaptation-{name}" for name in ours]
    for figure in (plot_heatmap(comparison), plot_comparison(comparison, options), plot_seeds(long)):
        figure.savefig(tmp_path / "x.png")


def test_vectors_of_other_texts_are_refused(sources):
    with pytest.raises(EvaluationError, match="the 40 texts of adapted_embeddings are not the 40 labelled texts in the same order"):
        sources(adapted_embeddings=embeddings("prompted_last_adapted", ids=IDS[::-1]))


def test_vectors_are_found_by_what_their_strategies_are_whatever_they_are_called(sources, evaluation_options, embedder_options, caplog):
    def options(before, after, words='"{text}" in short: "'):
        strategies = {
            before: {"weights": "base", "template": "words", "pooling": "last", "after": {"centre": True}},
            after: {"weights": "adapted", "template": "words", "pooling": "last"},
        }
        return embedder_options(templates={"words": words}, strategies=strategies, adapt=after)

    then = options("before", "after")
    base, adapted = (dataclasses.replace(embeddings(name), identities={name: then.identities[name]}) for name in ("before", "after"))
    fitted = AfterProcessing.fit(np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32), AfterSteps(centre=True))
    base = dataclasses.replace(base, after={"before": fitted})

    def planned(embedder):
        return plan_evaluation(
            *sources(base_embeddings=base, adapted_embeddings=adapted, embedder=embedder), evaluation_options(), embedder
        )

    original, renamed = planned(then), planned(options("one", "other"))
    assert original["strategy"].unique().tolist()[-2:] == ["before", "after"]
    assert renamed["strategy"].unique().tolist()[-2:] == ["one", "other"]
    assert renamed["cell"].tolist() == original["cell"].tolist()
    assert caplog.messages == []
    with pytest.raises(EvaluationError, match="no vectors of the current strategies; run embedding_extraction again"):
        planned(options("before", "after", '"{text}" is about "'))
    assert "strategies 'before' have changed since they were embedded" in caplog.text


def test_an_adapter_of_another_base_model_is_refused_unless_it_is_not_scored(sources, tiny_adapted, evaluation_options, embedder_options):
    other = dataclasses.replace(tiny_adapted, card=dataclasses.replace(tiny_adapted.card, sha256="0" * 64, source="random:other"))
    with pytest.raises(
        EvaluationError, match=r"the adapter belongs to 'random:other', not to 'random:tiny-llama.*set base_model to the first"
    ):
        plan_evaluation(*sources(adapter=other), evaluation_options(), embedder_options())
    planned = plan_evaluation(*sources(adapter=other), evaluation_options(strategies=["bare_*"]), embedder_options())
    assert set(planned["strategy"]) >= {"bare_mean"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"statistics": {"resamples": 100, "seed": 0, "baseline": "none"}},
            "unknown strategy 'none' in clustering_evaluation.statistics.baseline; choose from bare_mean",
        ),
        ({"comparators": {"models": {"bare_mean": {"model": "x"}}}}, "'bare_mean' in comparators.models is already a strategy's"),
        ({"strategies": ["topic.*"]}, r"unknown strategy 'topic.\*' in clustering_evaluation.strategies; choose from "),
    ],
)
def test_names_that_do_not_fit_are_refused_before_scoring(sources, evaluation_options, embedder_options, changes, message):
    with pytest.raises(ValueError, match=message):
        plan_evaluation(*sources(), evaluation_options(**changes), embedder_options())


def test_only_the_chosen_strategies_are_planned(sources, evaluation_options, embedder_options):
    planned = plan_evaluation(*sources(), evaluation_options(strategies=["prompted_*"]), embedder_options())
    assert set(planned["strategy"]) == {"random", "tfidf_svd", "prompted_last", "prompted_last_adapted"}


def test_the_map_shows_two_strategies_side_by_side(sources, evaluation_options):
    (labelled, *_) = sources()
    figure = plot_cluster_map(labelled, evaluation_options())
    assert [axis.get_title() for axis in figure.axes] == ["prompted_last", "prompted_last_adapted"]
    assert all(sum(len(c.get_offsets()) for c in axis.collections) == 40 for axis in figure.axes)
    (others, *_) = sources(base=("other",), adapted=("more",))
    with pytest.raises(EvaluationError, match=r"unknown strategy 'prompted_last' in .*map_strategies; choose from other, more"):
        plot_cluster_map(others, evaluation_options())


def test_the_map_draws_what_can_be_read(sources, evaluation_options, monkeypatch):
    monkeypatch.setattr(nodes, "_MAP_DOCUMENTS", 30)
    (labelled, *_) = sources()
    figure = plot_cluster_map(labelled, evaluation_options())
    assert all(sum(len(c.get_offsets()) for c in axis.collections) == 30 for axis in figure.axes)


def test_aligned_vectors_are_handed_on_without_a_copy(sources):
    (labelled, *_) = sources()
    assert copy.deepcopy(labelled) is labelled


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": []},
        {"seeds": [1, 1]},
        {"official_seeds": [42, 42]},
        {"max_documents": 1},
        {"map_strategies": ["one"]},
        {"labelled_files": {"labelled_texts": {"path": "x.csv"}}},
        {"comparators": {"models": {"random": {"model": "x"}}}},
        {"statistics": {"resamples": 10, "seed": 0}},
        {"model_name": "no organisation"},
    ],
)
def test_wrong_options_are_refused(evaluation_options, changes):
    with pytest.raises(ValidationError):
        evaluation_options(**changes)
