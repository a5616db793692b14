from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.comparison_table import overview
from embedding_adaptation.pipelines.clustering_evaluation import figures
from embedding_adaptation.pipelines.clustering_evaluation.comparison import (
    METRICS,
    compare,
    long_table,
    other_tasks_table,
    pivot,
)
from embedding_adaptation.pipelines.clustering_evaluation.labelled_vectors import LabelledVectors
from embedding_adaptation.pipelines.clustering_evaluation.report import describe_evaluation
from embedding_adaptation.pipelines.end_to_end.nodes import cost_lines
from embedding_adaptation.pipelines.model_export.facts import describe_model
from embedding_adaptation.pipelines.model_export.options import ExportOptions

NO_PUBLISHED = pd.DataFrame({"model": [], "tasks": [], "score": [], "source": []})
SCORES = {"random": 0.02, "bare_mean": 0.5, "prompted_last": 0.6, "prompted_last_adapted": 0.605, "bare_last": 0.4}
KINDS = {"random": "comparator", "prompted_last_adapted": "adapted"}


def cells(*tasks, seeds=3, documents=400, scores=SCORES, noise=0.02):
    """Scored cells with an error of the documents that all strategies share."""
    rng = np.random.default_rng(0)
    rows = []
    for number, task in enumerate(tasks):
        hardness = np.random.default_rng(number).normal(size=200)
        for name, level in scores.items():
            for seed in range(seeds):
                value = level + 0.004 * (seed - (seeds - 1) / 2)
                rows.append(
                    {
                        "task": task, "type": "Clustering", "official": False, "strategy": name, "kind": KINDS.get(name, "base"),
                        "seed": seed, "revision": "", "content": "c", "main_score": "v_measure",
                        "documents": documents, "unique_documents": documents,
                        "clusters": 5, "singletons": 0, "by_part": {},
                        "metrics": dict.fromkeys(METRICS, value) | {"v_measure_std": 0.01},
                        "resampled.v_measure_unique": value + noise * hardness + 0.002 * rng.normal(size=200),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def options(evaluation_options):
    return evaluation_options(statistics={"resamples": 200, "seed": 0, "baseline": "bare_mean"})


@pytest.fixture
def embedder(embedder_options):
    strategies = {
        "bare_mean": {"weights": "base", "template": "bare", "pooling": "mean"},
        "bare_last": {"weights": "base", "template": "bare", "pooling": "last"},
        "prompted_last": {"weights": "base", "template": "one_word", "pooling": "last"},
        "prompted_last_adapted": {"weights": "adapted", "template": "one_word", "pooling": "last"},
    }
    return embedder_options(strategies=strategies)


def by_name(table, task="mine"):
    return {row["strategy"]: row for row in table[table["task"] == task].to_dict("records")}


def test_the_best_and_what_is_not_worse_are_marked(options, embedder):
    table, _ = compare(cells("mine"), NO_PUBLISHED, options, embedder)
    standing = {name: row["standing"] for name, row in by_name(table).items()}
    assert standing == {
        "random": "", "bare_mean": "worse than best", "bare_last": "worse than best",
        "prompted_last": "not worse than best", "prompted_last_adapted": "best",
    }  # fmt: skip
    marked = pivot(table).set_index("strategy")["mine"].to_dict()
    assert marked["prompted_last_adapted"] == "**60.5**"
    assert marked["prompted_last"] == "60.0 ="
    assert marked["bare_mean"] == "50.0"


def test_what_is_gained_is_said_in_words_and_tested_three_ways(options, embedder):
    table, differences = compare(cells("mine"), NO_PUBLISHED, options, embedder)
    rows = by_name(table)
    assert rows["prompted_last"]["verdict"].startswith("real gain over bare_mean: +0.100 (+0.0")
    assert rows["bare_last"]["verdict"].startswith("real loss against bare_mean: -0.100")
    assert rows["bare_mean"]["verdict"] == ""
    assert rows["prompted_last_adapted"]["adaptation"].startswith("no difference from prompted_last shown: +0.005")
    assert rows["prompted_last"]["adaptation"] == ""
    assert differences["question"].value_counts().to_dict() == {"baseline": 4, "best": 3, "adaptation": 1}
    assert (differences["p_holm"] >= differences["p_value"]).all()
    assert (differences["low"] < differences["difference"]).all()


def test_comparison_report_and_export_find_the_same_twin(options, embedder_options, training_report, tiny_adapted):
    words = 'This sentence: "{text}" means in one word: "'
    strategies = {
        "bare_mean": {"weights": "base", "template": "bare", "pooling": "mean"},
        "before": {"weights": "base", "template": "called_otherwise", "pooling": "last"},
        "after": {"weights": "adapted", "template": "one_word", "pooling": "last"},
    }
    templates = {"bare": "{text}", "one_word": words, "called_otherwise": words}
    embedder = embedder_options(templates=templates, strategies=strategies, adapt="after")
    scored = cells("labelled_texts", scores={"random": 0.02, "bare_mean": 0.5, "before": 0.6, "after": 0.605})
    table, differences = compare(scored, NO_PUBLISHED, options, embedder)
    (pair,) = differences.loc[differences["question"] == "adaptation", ["strategy", "other"]].to_numpy().tolist()
    assert pair == ["after", "before"]
    lines = cost_lines({"seconds": 100.0}, table, embedder.adapt, embedder)
    assert any("Gain: +0.5 points of V-measure (mteb) for after" in line for line in lines)
    texts, fingerprints = pd.DataFrame({"text": ["x"], "label": ["y"]}), {"base": "", "adapted": tiny_adapted.fingerprint()}
    report = describe_evaluation(long_table(scored), table, LabelledVectors(texts, {}, {}, {}, fingerprints), options, embedder)
    facts = describe_model(tiny_adapted, training_report, report, {}, ExportOptions(), embedder)
    assert facts["evaluation"]["adapted"]["v_measure"]["mean"] == pytest.approx(0.605)
    assert facts["evaluation"]["base"]["v_measure"]["mean"] == pytest.approx(0.6)
    for row in table[table["kind"] != "published"].to_dict("records"):
        entry = report["random"] if row["strategy"] == "random" else report["strategies"][row["strategy"]]["scores"]
        interval = entry[options.statistics.metric]
        assert (interval["low"], interval["high"], interval["confidence"]) == (row["low"], row["high"], 0.95)


def test_means_spreads_and_intervals_stand_beside_what_a_strategy_is(options, embedder):
    table, _ = compare(cells("mine"), NO_PUBLISHED, options, embedder)
    row = by_name(table)["prompted_last_adapted"]
    assert (row["weights"], row["template"], row["pooling"], row["kind"], row["seeds"]) == ("adapted", "one_word", "last", "adapted", 3)
    assert row["v_measure"] == pytest.approx(0.605)
    assert row["v_measure_sd"] == pytest.approx(0.004)
    assert row["low"] < 0.605 < row["high"]
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * 0.02, rel=0.3)
    one = by_name(compare(cells("mine", seeds=1), NO_PUBLISHED, options, embedder)[0])["bare_mean"]
    assert one["v_measure_sd"] == 0.0


def test_a_task_of_few_documents_carries_a_caution(options, embedder):
    few, _ = compare(cells("ArXivHierarchicalClusteringP2P", documents=81), NO_PUBLISHED, options, embedder)
    assert few["caution"].unique().tolist() == ["only 81 documents: scores are accurate to about 4 points either way"]
    many, _ = compare(cells("mine"), NO_PUBLISHED, options, embedder)
    assert many["caution"].unique().tolist() == [""]


def test_published_scores_stand_beside_and_are_never_tested(options, embedder):
    published = pd.DataFrame(
        [
            {"model": "famous", "tasks": "one", "score": 70.0, "source": "somewhere"},
            {"model": "famous", "tasks": "one + two", "score": 65.0, "source": "somewhere"},
            {"model": "other", "tasks": "three", "score": 99.0, "source": "somewhere"},
        ]
    )
    table, differences = compare(cells("one", "two"), published, options, embedder)
    shown = table[table["kind"] == "published"]
    assert list(zip(shown["task"], shown["strategy"], shown["v_measure"], shown["source"], strict=True)) == [
        ("one", "famous", 0.7, "somewhere"),
        ("all tasks", "famous", 0.65, "somewhere"),
    ]
    assert shown[["low", "high", "v_measure_unique"]].isna().all(axis=None)
    assert (shown["standing"] == "").all()
    assert not {"famous", "other"} & set(differences["strategy"]) | set(differences["other"]) & {"famous"}
    assert by_name(table, "one")["prompted_last_adapted"]["standing"] == "best"


def test_several_tasks_have_a_mean_with_its_own_tests(options, embedder):
    table, differences = compare(cells("one", "two", "three"), NO_PUBLISHED, options, embedder)
    whole = by_name(table, "all tasks")
    assert whole["prompted_last"]["v_measure"] == pytest.approx(0.6)
    assert whole["prompted_last"]["v_measure_sd"] == pytest.approx(0.004 / 3**0.5, abs=1e-4)
    assert whole["prompted_last"]["verdict"].startswith("real gain")
    single = by_name(table, "one")["prompted_last"]
    assert whole["prompted_last"]["high"] - whole["prompted_last"]["low"] < 0.75 * (single["high"] - single["low"])
    assert set(differences["task"]) == {"one", "two", "three", "all tasks"}
    assert overview(table)["task"].unique().tolist() == ["all tasks"]
    assert pivot(table).columns.tolist() == ["strategy", "one", "two", "three", "all tasks"]


def test_without_a_baseline_the_first_strategy_is_it(evaluation_options, embedder):
    _, differences = compare(cells("mine"), NO_PUBLISHED, evaluation_options(), embedder)
    assert set(differences[differences["question"] == "baseline"]["other"]) == {"bare_mean"}
    only = compare(cells("mine", scores={"random": 0.1}), NO_PUBLISHED, evaluation_options(), embedder)
    assert len(only[0]) == 1
    assert only[1].empty


def test_the_long_table_has_a_row_for_each_part_and_metric():
    scored = cells("mine", seeds=1)
    scored["by_part"] = [{"level 1": {"ami_unique": 0.1}, "level 2": {"ami_unique": 0.3}}] * len(scored)
    table = long_table(scored)
    assert len(table) == 5 * (len(METRICS) + 1 + 2)
    row = table[(table["strategy"] == "bare_last") & (table["part"] == "level 2")].iloc[0]
    assert (row["metric"], row["value"], row["documents"], row["clusters"]) == ("ami_unique", 0.3, 400, 5)


def test_tasks_of_other_types_have_a_table_of_their_own(options, embedder):
    both = pd.concat([cells("mine"), cells("emotion").assign(type="Classification", main_score="v_measure")])
    other = other_tasks_table(both)
    assert len(other) == 15
    assert set(other["task"]) == {"emotion"}
    assert set(long_table(both)["task"]) == {"mine"}
    assert set(compare(both, NO_PUBLISHED, options, embedder)[0]["task"]) == {"mine"}
    assert other_tasks_table(cells("mine")).empty


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png")
    return figure


def test_the_heat_map_has_a_number_for_each_strategy(options, embedder):
    table, _ = compare(cells("mine"), NO_PUBLISHED, options, embedder)
    base, adapted, bar = drawn(figures.strategy_heatmap(overview(table))).axes
    assert bar.get_ylabel() == "V-measure (mteb), percent"
    assert sorted(text.get_text() for text in base.texts) == ["40.0", "50.0", "60.0"]
    assert [text.get_text() for text in adapted.texts] == ["60.5"]
    assert [label.get_text() for label in base.get_yticklabels()] == ["bare", "one_word"]


def test_the_heat_map_says_where_it_shows_the_best_of_several_layers(options, embedder):
    table = overview(compare(cells("mine"), NO_PUBLISHED, options, embedder)[0])
    other = table[table["kind"] == "adapted"].assign(layers="-2", v_measure=0.7)
    _, adapted, bar = drawn(figures.strategy_heatmap(pd.concat([table, other]))).axes
    assert [text.get_text() for text in adapted.texts] == ["70.0"]
    assert "best of layers" in bar.get_ylabel()


def test_bars_have_intervals_where_something_was_measured(options, embedder):
    published = pd.DataFrame([{"model": "famous", "tasks": "one", "score": 70.0, "source": "somewhere"}])
    table, _ = compare(cells("one", "two"), published, options, embedder)
    one, two = drawn(figures.comparison_bars(table, "v_measure_unique", 0.95)).axes
    assert [label.get_text() for label in one.get_yticklabels()][:2] == ["famous", "prompted_last_adapted"]
    assert (len(one.patches), len(one.lines)) == (6, 5)
    assert (len(two.patches), len(two.lines)) == (5, 5)
    many, _ = compare(cells(*"abcde"), NO_PUBLISHED, options, embedder)
    assert [axis.get_title() for axis in drawn(figures.comparison_bars(many, "v_measure_unique", 0.95)).axes] == ["all tasks"]


def test_each_seed_is_a_point():
    mteb, unique = drawn(figures.seed_spread(long_table(cells("one", "two")))).axes
    assert next(label.get_text() for label in mteb.get_yticklabels()) == "prompted_last_adapted (60.5)"
    np.testing.assert_allclose(sorted(mteb.collections[0].get_offsets()[:, 0]), [-0.4, 0.0, 0.4], atol=1e-9)
    assert sum(len(points.get_offsets()) for points in mteb.collections) == 15
    assert len(unique.collections) == 5


def test_of_many_strategies_the_best_are_drawn_and_all_comparators(evaluation_options, embedder_options):
    names = {f"s{n:02d}": 0.1 + n / 100 for n in range(40)}
    strategies = {name: {"weights": "base", "template": "bare", "pooling": "mean"} for name in names}
    adapted = {"prompted_last_adapted": {"weights": "adapted", "template": "bare", "pooling": "mean"}}
    scored = cells("mine", scores={"random": 0.01} | names)
    table, _ = compare(scored, NO_PUBLISHED, evaluation_options(), embedder_options(strategies=strategies | adapted))
    for figure in (figures.comparison_bars(table, "v_measure_unique", 0.95), figures.seed_spread(long_table(scored))):
        labels = [label.get_text().partition(" ")[0] for label in drawn(figure).axes[0].get_yticklabels()]
        assert labels == [f"s{n:02d}" for n in range(39, 10, -1)] + ["random"]
