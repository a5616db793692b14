from __future__ import annotations

import pandas as pd

from embedding_adaptation.pipelines.clustering_evaluation.labelled_vectors import LabelledVectors
from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions, StatisticsOptions
from embedding_adaptation.pipelines.clustering_evaluation.report import describe_evaluation as report_of
from embedding_adaptation.pipelines.clustering_evaluation.tasks import labelled_task


def test_the_report_says_what_was_scored_on_what_and_how(evaluation_report, tiny_adapted):
    assert evaluation_report["weights"]["adapted"] == tiny_adapted.fingerprint()
    assert evaluation_report["data"] == {"name": "labels.csv", "texts": 2, "labels": 2, "revision": "", "fingerprint": "ab" * 32}
    assert evaluation_report["protocol"] == {"name": "mteb fast clustering", "seeds": [0, 1, 2], "max_documents": None}
    assert evaluation_report["strategies"]["prompted_last"]["scores"]["v_measure"] == {"mean": 0.51, "sd": 0.01}
    assert evaluation_report["strategies"]["prompted_last"]["definition"]["template"][0]["pattern"].startswith("This sentence")
    assert evaluation_report["random"]["ami_unique"]["mean"] == 0.05


def test_without_labelled_texts_among_the_tasks_the_first_task_is_reported(embedder_options):
    scores = pd.DataFrame(
        [
            {"task": task, "strategy": "prompted_last", "seed": 42, "part": part, "metric": "v_measure", "value": value,
             "documents": 2048, "clusters": 20, "revision": "abc", "content": task}
            for task in ("TwentyNewsgroupsClustering.v2", "Other")
            for part, value in (("all", 0.4), ("Level 0", 0.9))
        ]
    )  # fmt: skip
    options = EvaluationOptions(
        seeds=(0,), max_documents=7, map_strategies=("prompted_last", "bare_mean"), statistics=StatisticsOptions(seed=0)
    )
    labelled = LabelledVectors(pd.DataFrame({"text": ["x"]}), {}, {}, {}, {"base": "b", "adapted": "a"})
    compared = pd.DataFrame(columns=["task", "strategy", "source", "low", "high"])
    found = report_of(scores, compared, labelled, options, embedder_options())
    name = "TwentyNewsgroupsClustering.v2"
    assert found["data"] == {"name": name, "texts": 2048, "labels": 20, "revision": "abc", "fingerprint": name}
    assert found["protocol"] == {"name": "mteb fast clustering", "seeds": [42], "max_documents": None}
    assert found["strategies"]["prompted_last"]["scores"] == {"v_measure": {"mean": 0.4, "sd": 0.0}}
    assert report_of(scores.head(0), compared, labelled, options, embedder_options()) == {}


def test_every_change_of_texts_labels_or_order_changes_the_fingerprint():
    def content(*rows, index=None):
        frame = pd.DataFrame([*rows, ("f", "c"), ("g", "e")], columns=["text", "label"], index=index)
        return labelled_task("mine", frame, (0,)).data["sha256"]

    found = [content(("ab", "c"), ("d", "e")), content(("abc", "c"), ("d", "e")), content(("d", "e"), ("ab", "c")),
             content(("ab", "e"), ("d", "c"))]  # fmt: skip
    assert len(set(found)) == 4
    assert found[0] == content(("ab", "c"), ("d", "e"), index=[7, 9, 3, 1])
