from __future__ import annotations

import json

import pytest

from embedding_adaptation.datasets.mteb_results import ModelResults, MtebResultsDataset, TaskResults


def test_without_results_the_folder_is_empty(tmp_path):
    dataset = MtebResultsDataset(filepath=str(tmp_path / "results"))
    dataset.save(TaskResults(()))
    assert list(dataset.load().iterdir()) == []


@pytest.mark.slow
def test_files_are_those_that_mteb_writes_and_reads(tmp_path):
    import mteb
    from mteb.cache import ResultCache
    from mteb.results import TaskResult

    task = mteb.get_task("TwentyNewsgroupsClustering.v2")
    scores = {"test": {"default": {"v_measure": 0.5, "main_score": 0.5}}}
    result = TaskResult.from_task_results(task, scores, evaluation_time=1.0)
    settings = {"templates": ["{text}"], "pooling": "mean"}
    model = ModelResults("team/small-prompted", 256, settings, {task.metadata.name: result.model_dump_json()})
    dataset = MtebResultsDataset(filepath=str(tmp_path / "results"))
    dataset.save(TaskResults((model,)))
    (file,) = dataset.load().rglob("TwentyNewsgroupsClustering.v2.json")
    assert file.parent.parent.name == "team__small-prompted"
    assert TaskResult.from_disk(file).get_score() == 0.5
    assert json.loads(file.read_text())["dataset_revision"] == task.metadata.dataset["revision"]
    meta = json.loads((file.parent / "model_meta.json").read_text())
    assert (meta["name"], meta["max_tokens"], meta["revision"]) == ("team/small-prompted", 256, file.parent.name)
    found = ResultCache(dataset.load()).load_results(tasks=[task])
    assert len(found.model_results) == 1
