from __future__ import annotations

import gzip
import json
import logging

import numpy as np
import pandas as pd
import pytest
from kedro.io.core import DatasetError

from embedding_adaptation import paths
from embedding_adaptation.datasets.task_mirror import MirrorError, TaskMirror
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.grid import score_cell
from embedding_adaptation.pipelines.clustering_evaluation.tasks import (
    check_task_names,
    labelled_task,
    normalised_labels,
    resolve_tasks,
)

ARXIV, NEWS = "mteb/arxiv-clustering-p2p", "mteb/twentynewsgroups-clustering"
FRAME = pd.DataFrame({"text": [f"t{n}" for n in range(40)], "label": ["ab"[n % 2] for n in range(40)]})


def direct_score(name, folder, source, seed=42):
    """The task's score by plain mteb."""
    import mteb
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder

    class Direct(AbsEncoder):
        mteb_model_meta = ModelMeta.create_empty(overwrites={"name": "test/direct", "revision": "1"})

        def encode(self, inputs, **kwargs):
            return source([text for batch in inputs for text in batch["text"]])

    task = type(mteb.get_task(name))(seed=seed)
    task.metadata = task.metadata.model_copy(update={"dataset": {**task.metadata.dataset, "path": str(folder)}})
    return mteb.evaluate(Direct(), [task], cache=None, show_progress_bar=False).task_results[0].get_score()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "repository", "documents", "parts"),
    [
        ("ArXivHierarchicalClusteringP2P", ARXIV, 81, 2),
        ("TwentyNewsgroupsClustering.v2", NEWS, 60, 0),
        ("TwentyNewsgroupsClustering", NEWS, 1500, 5),
    ],
)
def test_a_task_of_mteb_scores_as_in_mteb_whatever_was_scored_before(
    mirror, topical, evaluation_options, name, repository, documents, parts
):
    root = mirror(repository)
    options = evaluation_options(tasks=[name])
    (task,) = resolve_tasks(options, FRAME, TaskMirror(root))
    prepared = task.prepare(42)
    score_cell(task, prepared, lambda texts: np.random.default_rng(0).normal(size=(len(texts), 4)), 42, options)
    row = score_cell(task, prepared, topical, 42, options).iloc[0]
    metrics = json.loads(row["metrics"])
    assert metrics["v_measure"] == pytest.approx(direct_score(name, root / repository, topical), abs=1e-6)
    assert row["documents"] == row["unique_documents"] == documents
    assert len(json.loads(row["by_part"])) == parts
    assert row["mteb_result"].startswith("{")
    assert task.files.revision in row["mteb_result"]  # mteb's own revision, whatever folder the data came from


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "repository", "kind", "metric"),
    [
        ("EmotionClassification", "mteb/emotion", "Classification", "accuracy"),
        ("STSBenchmark", "mteb/stsbenchmark-sts", "STS", "cosine_spearman"),
        ("TwitterSemEval2015", "mteb/twittersemeval2015-pairclassification", "PairClassification", "max_ap"),
        ("SciFact", "mteb/scifact", "Retrieval", "ndcg_at_10"),
        ("AskUbuntuDupQuestions", "mteb/AskUbuntuDupQuestions", "Reranking", "map_at_1000"),
    ],
)
def test_tasks_of_other_types_run_through_the_same_vectors(mirror, topical, evaluation_options, name, repository, kind, metric):
    root = mirror(repository)
    options = evaluation_options(tasks=[name])
    (task,) = resolve_tasks(options, FRAME, TaskMirror(root))
    assert task.kind == kind
    row = score_cell(task, task.prepare(42), topical, 42, options).iloc[0]
    assert row["main_score"] == metric
    assert json.loads(row["metrics"]) == {metric: pytest.approx(direct_score(name, root / repository, topical), abs=1e-6)}


def test_seeds_draw_other_documents_and_a_seed_the_same(mirror, evaluation_options):
    (task,) = resolve_tasks(evaluation_options(tasks=["TwentyNewsgroupsClustering.v2"]), FRAME, TaskMirror(mirror(NEWS)))
    one, again, other = (task.prepare(seed) for seed in (42, 42, 1))
    draws = [prepared.fresh().rng_state.random() for prepared in (one, one, again, other)]
    assert draws[0] == draws[1] == draws[2] != draws[3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TwentyNewsgroupClustering.v2", "did you mean 'TwentyNewsgroupsClustering.v2'"),
        ("MTEB(eng, v3)", r"did you mean .*'MTEB\(eng, v[12]\)'"),
        ("labeled_texts", "did you mean 'labelled_texts'"),
        ("ticket", "did you mean 'tickets'"),
        ("zzzzzzzz", r"mteb.get_tasks\(\) and mteb.get_benchmarks\(\) list them"),
    ],
)
def test_a_task_name_with_a_typo_gets_the_nearest_names(tmp_path, evaluation_options, name, message):
    (tmp_path / "x.csv").write_text("text,label\none,a\ntwo,b\nthree,a\n")
    options = evaluation_options(tasks=[name], labelled_files={"tickets": {"path": str(tmp_path / "x.csv")}})
    with pytest.raises(EvaluationError, match=f"unknown task '{name.replace('(', '.').replace(')', '.')}' .*; .*{message}"):
        check_task_names(options)


def test_a_benchmark_gives_its_tasks_of_the_wanted_types(evaluation_options):
    from embedding_adaptation.pipelines.clustering_evaluation.tasks import _official_templates

    def names(**changes):
        return [task.metadata.name for task in _official_templates(evaluation_options(**changes))["MTEB(eng, v2)"]]

    clustering = names(tasks=["MTEB(eng, v2)"])
    assert len(clustering) == 8
    assert {"ArXivHierarchicalClusteringP2P", "TwentyNewsgroupsClustering.v2"} <= set(clustering)
    assert "STS12" in names(tasks=["MTEB(eng, v2)"], task_types=["STS", "Classification"])
    (v1,) = _official_templates(evaluation_options(tasks=["MTEB(eng, v1)"])).values()
    assert len(v1) == 11
    with pytest.raises(EvaluationError, match=r"has no task of the types Song; choose from .*Clustering"):
        check_task_names(evaluation_options(tasks=["MTEB(eng, v2)"], task_types=["Song"]))


def test_languages_that_a_benchmark_chose_stay_chosen(evaluation_options):
    from embedding_adaptation.pipelines.clustering_evaluation.tasks import _another, _official_templates

    options = evaluation_options(tasks=["MTEB(eng, v2)"], task_types=["Classification"])
    (massive,) = [t for t in _official_templates(options)["MTEB(eng, v2)"] if t.metadata.name == "MassiveIntentClassification"]
    assert list(_another(massive, 1).hf_subsets) == ["en"]
    assert list(_another(massive, 1).eval_splits) == list(massive.eval_splits)


def test_pictures_are_refused(evaluation_options):
    with pytest.raises(EvaluationError, match="this project embeds texts only"):
        check_task_names(evaluation_options(tasks=["CIFAR10Clustering"]))


def test_a_mirror_with_a_missing_split_or_a_damaged_file_is_explained(mirror, evaluation_options):
    options = evaluation_options(tasks=["TwentyNewsgroupsClustering.v2"])
    root = mirror(NEWS)
    (root / NEWS / "test.jsonl.gz").rename(root / NEWS / "train.jsonl.gz")
    (task,) = resolve_tasks(options, FRAME, TaskMirror(root))
    with pytest.raises(EvaluationError, match="has no split 'test', only train; the mirror is incomplete"):
        task.prepare(42)
    (root / NEWS / "train.jsonl.gz").unlink()
    (task,) = resolve_tasks(options, FRAME, TaskMirror(root))
    with pytest.raises(EvaluationError, match=r"the data in .* cannot be read"):
        task.prepare(42)
    (root / NEWS / "test.jsonl.gz").write_bytes(gzip.compress(b'{"other": 1}'))
    (task,) = resolve_tasks(options, FRAME, TaskMirror(root))
    with pytest.raises(EvaluationError, match=r"cannot be read .*copy them again from the Hub"):
        task.prepare(42)
    with pytest.raises(MirrorError, match="does not contain mteb/twentynewsgroups-clustering"):
        resolve_tasks(options, FRAME, TaskMirror(root.parent))


def test_labelled_files_stand_beside_the_labelled_texts(tmp_path, evaluation_options):
    (tmp_path / "x.csv").write_text("body,area,part\n" + "".join(f"text {n},{'ab'[n % 2]},{'pqr'[n % 3]}\n" for n in range(30)))
    options = evaluation_options(
        tasks=["mine", "labelled_texts", "mine"],
        labelled_files={"mine": {"path": str(tmp_path / "x.csv"), "text_column": "body", "label_column": ["area", "part"]}},
    )
    tasks = resolve_tasks(options, FRAME, TaskMirror())
    assert [task.name for task in tasks] == ["mine", "labelled_texts"]
    assert [part.title for part in tasks[0].prepare(0).parts({})] == ["level 1", "level 2"]
    assert tasks[0].seeds == (0, 1)
    with pytest.raises(DatasetError, match="has no column 'text'"):
        check_task_names(evaluation_options(labelled_files={"mine": {"path": str(tmp_path / "x.csv")}}))


def test_labelled_files_lie_where_the_project_says(tmp_path, evaluation_options, monkeypatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.csv").write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(30)))
    monkeypatch.setenv(paths._ROOT, str(tmp_path))
    monkeypatch.chdir(tmp_path / "raw")
    (task,) = resolve_tasks(evaluation_options(tasks=["mine"], labelled_files={"mine": {"path": "raw/x.csv"}}), FRAME, TaskMirror())
    assert len(task.prepare(0).parts({})[0].texts) == 30
    with pytest.raises(DatasetError, match="does not exist"):
        check_task_names(evaluation_options(labelled_files={"mine": {"path": "x.csv"}}))


def test_a_draw_is_the_same_for_all_and_another_for_each_seed():
    task = labelled_task("mine", FRAME, (0, 1), max_documents=10)
    draws = [task.prepare(seed).parts({})[0] for seed in (0, 0, 1)]
    assert draws[0].texts == draws[1].texts != draws[2].texts
    assert len(draws[0].texts) == 10
    assert all(
        dict(zip(FRAME["text"], FRAME["label"], strict=True))[t] == label for t, label in zip(draws[0].texts, draws[0].labels, strict=True)
    )


def test_what_decides_the_documents_is_in_the_fingerprint():
    data = [
        labelled_task("mine", frame, (0,), limit).data
        for frame, limit in ((FRAME, None), (FRAME, 10), (FRAME.assign(label="x" + FRAME["label"]), None), (FRAME[::-1], None))
    ]
    assert len({str(item) for item in data}) == 4
    assert labelled_task("other", FRAME, (3,)).data == data[0]


def test_labels_of_mixed_type_are_compared_as_text(caplog):
    with caplog.at_level(logging.WARNING):
        assert normalised_labels([1, "1", 2.5, ["a", 3], [None, "b"]], "mine") == ["1", "1", "2.5", ["a", "3"], ["b"]]
    assert "labels of several types (NoneType, float, int, str)" in caplog.text
    with pytest.raises(EvaluationError, match="mine: document 2 has no label"):
        normalised_labels(["a", None], "mine")
    mixed = pd.DataFrame({"text": ["a", "b", "c"], "label": [1, "1", 2]})
    assert labelled_task("mine", mixed, (0,)).labels == ["1", "1", "2"]


def test_copies_and_singletons_are_reported_and_labels_of_one_kind_refused(caplog, evaluation_options):
    frame = pd.DataFrame({"text": ["a", "b", "a", "c", "d"], "label": ["x", "y", "y", "z", "x"]})
    with caplog.at_level(logging.WARNING):
        resolve_tasks(evaluation_options(), frame, TaskMirror())
    assert "labelled_texts: 1 documents are copies of others (1 with another label)" in caplog.text
    assert "labelled_texts: 2 of 3 labels belong to one document only" in caplog.text
    with pytest.raises(EvaluationError, match="labelled_texts: the 5 distinct documents have 1 label"):
        resolve_tasks(evaluation_options(), FRAME.head(5).assign(label="x"), TaskMirror())
