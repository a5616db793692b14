from __future__ import annotations

import re

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset
from kedro_datasets.text import TextDataset

from embedding_adaptation.datasets.exported_embedder import ExportedEmbedderDataset
from embedding_adaptation.options import Options
from embedding_adaptation.run_summary import RunSummary, link_latest, loading_line


def pipeline(*inputs, outputs="out"):
    return Pipeline([Node(lambda *values: values, list(inputs), outputs, name="some_node")])


FACTS = {
    "flavour": "plain",
    "strategy": {"name": "two"},
    "evaluation": {"adapted": {"v_measure": {"mean": 0.6, "sd": 0.01}}, "best": {"strategy": "one", "mean": 0.7}},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation": None}, "two, not scored on labelled texts"),
        ({"strategy": {"name": "one"}}, "one, V-measure 0.600: the best strategy"),
    ],
)
def test_a_run_without_labelled_texts_ends_with_verdict_and_model(tmp_path, capsys, changes, said):
    catalog = DataCatalog(
        {
            "adapted_embedder": ExportedEmbedderDataset(filepath=str(tmp_path / "adapted_embedder")),
            "verdict": MemoryDataset({"sentence": "It helps."}),
            "model_facts": MemoryDataset(FACTS | changes),
        }
    )
    RunSummary().after_pipeline_run(pipeline=pipeline("x", outputs=list(catalog.keys())), catalog=catalog)
    shown = capsys.readouterr().out
    assert shown.startswith("It helps.\nModel:    ")
    assert said in shown


def test_a_run_that_compared_strategies_ends_with_the_table(tmp_path, capsys):
    catalog = DataCatalog(
        {
            "strategy_comparison": CSVDataset(filepath=str(tmp_path / "c.csv"), save_args={"index": False}),
            "report": TextDataset(filepath=str(tmp_path / "report.md")),
            "adapted_embedder": ExportedEmbedderDataset(filepath=str(tmp_path / "adapted_embedder")),
            "verdict": MemoryDataset({"sentence": "Without labels: it helps (0.5 [of 1])."}),
            "model_facts": MemoryDataset(FACTS),
        }
    )
    scores = {f"{name}{end}": 0.6 for name in ("v_measure", "v_measure_unique", "ami_unique") for end in ("", "_sd")}
    row = {"task": "labelled_texts", "strategy": "prompted_values_adapted", "kind": "adapted", "standing": "best"} | scores
    catalog.save("strategy_comparison", pd.DataFrame([row]))
    RunSummary().after_pipeline_run(pipeline=pipeline("x", outputs=list(catalog.keys())), catalog=catalog)
    shown = capsys.readouterr().out
    assert "prompted_values_adapted" in shown
    assert "report.md" in shown
    assert "Model:" in shown
    assert "Without labels: it helps (0.5 [of 1])." in shown
    assert "two, V-measure 0.600: -0.100 against the best, one" in shown
    RunSummary().after_pipeline_run(pipeline=pipeline("x"), catalog=catalog)
    assert capsys.readouterr().out == ""


class SomeOptions(Options):
    private: bool


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "2 clusters of 18,000 texts, the largest: many (40%); few (10%)"),
        ({"private": True}, "2 clusters of 18,000 texts"),
        (SomeOptions(private=True), "2 clusters of 18,000 texts"),
    ],
)
def test_clusters_end_with_the_names_of_the_largest_and_their_table_and_page(options, said, tmp_path, capsys):
    summary = pd.DataFrame({"cluster": [0, 1, -1], "name": ["few", "many", "noise"], "size": [2, 7, 9], "share": [0.1, 0.4, 0.5]})
    catalog = DataCatalog(
        {
            "clustering_report": MemoryDataset({"clusters": 2, "texts": 18_000}),
            "cluster_summary": MemoryDataset(summary),
            "cluster_assignments": TextDataset(filepath=str(tmp_path / "assignments.parquet")),
            "clusters_page": TextDataset(filepath=str(tmp_path / "clusters.html")),
            "params:text_clustering": MemoryDataset(options),
        }
    )
    made = [name for name in catalog.keys() if not name.startswith("params:")]  # noqa: SIM118  a catalog is no mapping
    RunSummary().after_pipeline_run(pipeline=pipeline("x", outputs=made), catalog=catalog)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == said
    assert [line.rpartition("/")[2] for line in rest] == ["assignments.parquet", "clusters.html"]


def test_the_line_that_loads_the_model_is_python_for_either_flavour():
    for flavour in ("plain", "package"):
        line = loading_line({"flavour": flavour}, "a/b")
        compile(line, "line", "exec")
        assert line.endswith('("a/b")')


@pytest.mark.parametrize("is_folder", [False, True])
def test_latest_leads_to_the_newest_version(tmp_path, is_folder):
    for version in ("2026-01-01", "2026-01-02"):
        path = tmp_path / "data" / "08_reporting" / "report.html" / version / "report.html"
        path.mkdir(parents=True) if is_folder else path.parent.mkdir(parents=True)
        (path / "content" if is_folder else path).write_text(version)
        link = link_latest(path)
        assert link == tmp_path / "data" / "latest" / "report.html"
        assert (link / "content" if is_folder else link).read_text() == version
    (tmp_path / "data").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "latest" / "report.html").exists()  # the link is relative
    assert [path.name for path in (tmp_path / "moved" / "latest").iterdir()] == ["report.html"]


def test_what_has_no_version_or_cannot_be_linked_keeps_its_path(tmp_path, monkeypatch):
    plain = tmp_path / "report.html"
    plain.write_text("")
    assert link_latest(plain) == plain
    path = tmp_path / "data" / "08_reporting" / "report.html" / "1" / "report.html"
    path.parent.mkdir(parents=True)
    path.write_text("")

    def unsupported(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", unsupported)
    assert link_latest(path) == path


def test_a_plan_is_shown_as_a_table_with_its_price(tmp_path, capsys):
    table = CSVDataset(filepath=str(tmp_path / "plan.csv"), save_args={"index": False})
    rows = [("data_augmentation", 600.0, 0.2, 100.0, 0.27), ("all", 7200.0, 2.4, 1200.0, 3.2)]
    table.save(
        pd.DataFrame(
            [(name, 5000, *rest) for name, *rest in rows], columns=["pipeline", "texts", "seconds_1", "cost_1", "seconds_8", "cost_8"]
        )
    )
    plan = {"texts": 5000, "tokens": 61_000, "memory_bytes": 3.2e9, "disk_bytes": 1e9, "fits_into_memory": False, "currency": "EUR"}
    plan["seconds_if_rejected"] = 600.0
    catalog = DataCatalog({"plan_table": table, "plan": JSONDataset(filepath=str(tmp_path / "plan.json"))})
    catalog.save("plan", plan | {"cost": {"1": 2.4, "8": 3.2}})
    RunSummary().after_pipeline_run(pipeline=pipeline("x", outputs=["plan", "plan_table"]), catalog=catalog)
    shown = capsys.readouterr().out
    assert "5,000 texts" in shown
    assert re.search(r"data_augmentation\W+10 min \(0\.20\)\W+2 min \(0\.27\)", shown)
    assert re.search(r"all\W+2\.0 h \(2\.40\)\W+20 min \(3\.20\)", shown)
    assert "memory 3.2 GB, more than this machine has free, disk 1.0 GB" in shown
    assert "in EUR" in shown
    assert "If adaptation is not found to help, one worker takes 10 min" in shown
    assert "plan.json" in shown
