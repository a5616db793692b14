from __future__ import annotations

import pandas as pd

from embedding_adaptation.pipelines.clustering_evaluation.report import data_fingerprint


def test_the_report_says_what_was_scored_on_what_and_how(evaluation_report, tiny_adapted):
    assert evaluation_report["weights"]["adapted"] == tiny_adapted.fingerprint()
    assert evaluation_report["data"] | {"fingerprint": ""} == {"name": "labels.csv", "texts": 2, "labels": 2, "fingerprint": ""}
    assert evaluation_report["protocol"] == {"name": "mteb fast clustering", "seeds": [0, 1, 2], "max_documents": None}
    assert evaluation_report["strategies"]["prompted_last"]["scores"]["v_measure"] == {"mean": 0.51, "sd": 0.01}
    assert evaluation_report["strategies"]["prompted_last"]["definition"]["template"][0]["pattern"].startswith("This sentence")
    assert evaluation_report["random"]["ami_unique"]["mean"] == 0.05


def test_every_change_of_texts_labels_or_order_changes_the_fingerprint():
    frames = [[("ab", "c"), ("d", "e")], [("a", "bc"), ("d", "e")], [("d", "e"), ("ab", "c")], [("ab", "e"), ("d", "c")]]
    found = [data_fingerprint(pd.DataFrame(rows, columns=["text", "label"])) for rows in frames]
    assert len(set(found)) == 4
    assert found[0] == data_fingerprint(pd.DataFrame(frames[0], columns=["text", "label"], index=[7, 9]))
