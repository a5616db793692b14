from __future__ import annotations

from contextlib import nullcontext

import pytest
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog, MemoryDataset
from kedro.io.core import DatasetError
from kedro.pipeline import Node, Pipeline
from kedro_datasets.pandas import CSVDataset

from embedding_adaptation.datasets.adapter import OptionalAdapterDataset
from embedding_adaptation.datasets.reports import OptionalReportDataset
from embedding_adaptation.datasets.shards import ShardsDataset
from embedding_adaptation.datasets.texts import TextsDataset
from embedding_adaptation.hooks import InputChecks


def pipeline(*inputs, outputs="out"):
    return Pipeline([Node(lambda *values: values, list(inputs), outputs, name="some_node")])


def test_unusable_texts_stop_the_run_before_it_starts(tmp_path):
    catalog = DataCatalog({"corpus": TextsDataset(filepath=str(tmp_path / "none.txt"))})
    with pytest.raises(DatasetError, match=r"none\.txt does not exist"):
        InputChecks().before_pipeline_run(pipeline=pipeline("corpus"), catalog=catalog)


def test_a_missing_result_of_another_pipeline_names_that_pipeline(tmp_path):
    configure_project("embedding_adaptation")
    catalog = DataCatalog({"clustering_scores": CSVDataset(filepath=str(tmp_path / "x.csv"))})
    with pytest.raises(DatasetError, match="run 'kedro run --pipelines=clustering_evaluation' first"):
        InputChecks().before_pipeline_run(pipeline=pipeline("clustering_scores"), catalog=catalog)
    catalog["unheard_of"] = CSVDataset(filepath=str(tmp_path / "y.csv"))
    with pytest.raises(DatasetError, match="'unheard_of' does not exist yet; see the catalog"):
        InputChecks().before_pipeline_run(pipeline=pipeline("unheard_of"), catalog=catalog)
    pipelines.set_requested(None)


def test_strategies_that_are_not_there_stop_the_run_before_it_starts(embedder_options):
    run = pipeline("params:embedder", "params:embedding_extraction", "params:clustering_evaluation")
    evaluation = {"seeds": [0], "statistics": {"seed": 0}, "map_strategies": ["a", "b"]}
    values = {"embedding_extraction": {"strategies": None, "seed": 0}, "clustering_evaluation": evaluation | {"strategies": ["bare_*"]}}
    catalog = DataCatalog(
        {"params:embedder": MemoryDataset(embedder_options()), **{f"params:{k}": MemoryDataset(v) for k, v in values.items()}}
    )
    InputChecks().before_pipeline_run(pipeline=run, catalog=catalog)
    values["clustering_evaluation"]["strategies"] = "none"
    catalog["params:clustering_evaluation"] = MemoryDataset(values["clustering_evaluation"])
    with pytest.raises(DatasetError, match=r"unknown strategy 'none' in clustering_evaluation\.strategies"):
        InputChecks().before_pipeline_run(pipeline=run, catalog=catalog)


@pytest.mark.parametrize("name", ["none", "prompted_last_adapted"])
def test_training_compares_neighbours_with_a_strategy_of_the_base_model(embedder_options, name):
    run = pipeline("params:embedder", "params:contrastive_finetuning")

    def check(reference):
        values = {"loss": "info_nce", "steps": 1, "seed": 0, "stopping": {"reference": reference}}
        options = {"params:embedder": MemoryDataset(embedder_options()), "params:contrastive_finetuning": MemoryDataset(values)}
        InputChecks().before_pipeline_run(pipeline=run, catalog=DataCatalog(options))

    check("bare_mean")
    check(None)
    with pytest.raises(DatasetError, match=rf"unknown strategy '{name}' in contrastive_finetuning\.stopping\.reference; choose one"):
        check(name)


def test_the_teacher_is_a_strategy_of_the_base_model(embedder_options):
    run = pipeline("params:embedder", "params:contrastive_finetuning")
    options = MemoryDataset({"loss": "consensus", "steps": 1, "seed": 0, "stopping": {"reference": None}})
    for teacher, message in (
        ("bare_mean", None),
        ("none", "unknown strategy 'none' in embedder.teacher"),
        ("prompted_last_adapted", "learns"),
    ):
        catalog = {
            "params:embedder": MemoryDataset(embedder_options(teacher={"strategy": teacher})),
            "params:contrastive_finetuning": options,
        }
        with nullcontext() if message is None else pytest.raises(DatasetError, match=message):
            InputChecks().before_pipeline_run(pipeline=run, catalog=DataCatalog(catalog))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"generators": {"neighbours": {"strategy": "none"}}},
            r"unusable strategy 'none' in .*neighbours\.strategy: it must have",
        ),
        (
            {"generators": {"neighbours": {"strategy": "prompted_last_adapted"}}},
            r"base weights; choose from bare_mean, prompted_last$",
        ),
        ({"filters": {"drift": {"strategy": "prompted_last_adapted"}}}, "it must have base weights and no after-processing; choose from"),
        ({"filters": {"drift": {"strategy": "none"}}}, r"unusable strategy 'none' in data_augmentation\.filters\.drift\.strategy"),
        ({}, None),
    ],
)
def test_augmentation_names_strategies_of_the_base_model(embedder_options, changes, message):
    values = {"cleaning": {}, "generators": {"noise": {}}, "filters": {"drift": {"strategy": "prompted_last"}}, "seed": 0} | changes
    run = pipeline("params:embedder", "params:data_augmentation")
    catalog = DataCatalog({"params:embedder": MemoryDataset(embedder_options()), "params:data_augmentation": MemoryDataset(values)})
    if message is None:
        InputChecks().before_pipeline_run(pipeline=run, catalog=catalog)
        return
    with pytest.raises(DatasetError, match=message):
        InputChecks().before_pipeline_run(pipeline=run, catalog=catalog)


@pytest.mark.parametrize(
    ("export", "embedder", "message"),
    [
        (
            {"strategy": "none"},
            {},
            r"unusable strategy 'none' in model_export\.strategy: it must have adapted weights to be exported; choose from prompted",
        ),
        ({"strategy": "bare_mean"}, {}, "strategy 'bare_mean' in model_export.strategy: it must have adapted weights"),
        ({}, {"pooling": "text_mean"}, r"embedder\.adapt: strategy 'a' .*pooling text_mean.*Set model_export\.strategy to another"),
        ({"strategy": "a"}, {"pooling": "last", "layers": [1]}, "because of layers"),
        ({"strategy": "a"}, {"pooling": "last", "after": {"centre": True}}, None),
        ({}, {"pooling": "last"}, None),
    ],
)
def test_what_cannot_be_exported_stops_the_run_before_it_starts(embedder_options, export, embedder, message):
    strategies = {"bare_mean": {"weights": "base", "template": "bare", "pooling": "mean"}}
    strategies["prompted"] = {"weights": "adapted", "template": "one_word", "pooling": "last"}
    strategies["a"] = {"weights": "adapted", "template": "one_word", "pooling": "last"} | embedder
    adapt = "prompted" if "strategy" in export else "a"
    values = {"params:embedder": embedder_options(strategies=strategies, adapt=adapt), "params:model_export": export}
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in values.items()})
    if message is None:
        InputChecks().before_pipeline_run(pipeline=pipeline(*values), catalog=catalog)
        return
    with pytest.raises(DatasetError, match=message):
        InputChecks().before_pipeline_run(pipeline=pipeline(*values), catalog=catalog)


def test_reports_that_are_optional_may_be_missing(tmp_path):
    reports = {name: OptionalReportDataset(filepath=str(tmp_path / "none.json")) for name in ("corpus_report", "evaluation_report")}
    InputChecks().before_pipeline_run(pipeline=pipeline(*reports), catalog=DataCatalog(reports))


def test_earlier_candidates_may_be_missing(tmp_path):
    empty = {name: ShardsDataset(filepath=str(tmp_path / "none"), optional=True) for name in ("finished_candidates", "finished_scores")}
    InputChecks().before_pipeline_run(pipeline=pipeline(*empty), catalog=DataCatalog(empty))
    assert not (tmp_path / "none").exists()
    needed = {"candidate_pairs": ShardsDataset(filepath=str(tmp_path / "none"))}
    with pytest.raises(DatasetError, match="input 'candidate_pairs' does not exist yet"):
        InputChecks().before_pipeline_run(pipeline=pipeline(*needed), catalog=DataCatalog(needed))


def test_a_task_that_is_not_there_stops_the_run_before_it_starts(embedder_options, tmp_path):
    run = pipeline("params:embedder", "params:clustering_evaluation")
    values = {"seeds": [0], "strategies": None, "statistics": {"seed": 0}, "map_strategies": ["a", "b"]}

    def check(**changes):
        given = {"params:embedder": embedder_options(), "params:clustering_evaluation": values | changes}
        catalog = DataCatalog({name: MemoryDataset(value) for name, value in given.items()})
        InputChecks().before_pipeline_run(pipeline=run, catalog=catalog)

    check()
    with pytest.raises(DatasetError, match=r"unknown task 'mine' in clustering_evaluation.tasks: not a labelled file"):
        check(tasks=["mine"])
    with pytest.raises(DatasetError, match=r"x\.csv does not exist"):
        check(labelled_files={"mine": {"path": str(tmp_path / "x.csv")}})


def test_text_clustering_asks_for_no_strategy_or_adapter_that_is_not_there(embedder_options, tmp_path):
    configure_project("embedding_adaptation")
    run = pipeline("params:embedder", "params:text_clustering", "trained_adapter")
    values = {
        "strategies": {"base": "prompted_last", "adapted": "prompted_last_adapted"},
        "stability": {"candidates": [2, 3]},
        "naming": {"system_prompt": "You name.", "instruction": "{texts}"},
        "seed": 0,
    }

    def check(run=run, **changes):
        catalog = DataCatalog(
            {
                "params:embedder": MemoryDataset(embedder_options()),
                "params:text_clustering": MemoryDataset(values | changes),
                "trained_adapter": OptionalAdapterDataset(filepath=str(tmp_path / "adapter"), base_model="base_model"),
            }
        )
        InputChecks().before_pipeline_run(pipeline=run, catalog=catalog)

    check()
    check(weights="base")
    with pytest.raises(
        DatasetError, match="there is no adapter; run 'kedro run --pipelines=contrastive_finetuning' first, or set it to base"
    ):
        check(weights="adapted")
    check(run=pipeline("params:embedder", "params:text_clustering"), weights="adapted")  # the run trains the adapter itself
    with pytest.raises(DatasetError, match=r"unusable strategy 'none' in text_clustering\.strategies\.base"):
        check(strategies={"base": "none", "adapted": "prompted_last_adapted"})
    pipelines.set_requested(None)


@pytest.mark.parametrize(
    ("given", "remarked"),
    [
        (
            {"corpus_column": {"corpus"}},
            "parameter corpus_column has no effect: this run does not use corpus",
        ),
        ({"text_clustering": {"params:text_clustering"}}, "parameter text_clustering has no effect: this run does not use text_clustering"),
        ({"labels": {"corpus", "labelled_texts"}, "embedder": {"params:embedder"}, "own": {"params:own"}}, ""),
    ],
)
def test_a_parameter_that_the_run_has_no_use_for_is_remarked(given, remarked, caplog, embedder_options):
    checks = InputChecks()
    checks._consumers = given
    catalog = DataCatalog({"labelled_texts": MemoryDataset(1), "params:embedder": MemoryDataset(embedder_options())})
    checks.before_pipeline_run(pipeline=pipeline("labelled_texts", "params:embedder", "params:own.size"), catalog=catalog)
    assert remarked in caplog.text if remarked else "has no effect" not in caplog.text
