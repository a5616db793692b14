from __future__ import annotations

import pandas as pd

from embedding_adaptation.pipelines.contrastive_finetuning.nodes import describe_training
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions


def test_the_report_counts_pairs_and_measures_up_to_the_chosen_step(training_report, tiny_adapted):
    assert training_report["adapter"] == tiny_adapted.fingerprint()
    assert (training_report["trained"]["step"], training_report["trained"]["last_step"]) == (3, 4)
    assert training_report["data"]["texts"] == 2
    assert training_report["data"]["generators"]["noise"] == {"pairs": 1, "models": []}
    assert training_report["data"]["languages"] == {"en": 2}
    assert training_report["history"] == {"validation_loss": {"before": 2.5, "after": 1.25}}
    assert training_report["seconds"] == 90.0


def test_pairs_of_the_users_own_are_not_said_to_come_from_the_corpus(tiny_adapted):
    pairs = pd.DataFrame({"source_id": ["1"], "source_text": ["a"], "generated_text": ["b"]})
    corpus = {"corpus": "mine.txt", "texts": 12, "kept": 9}
    history = pd.DataFrame({"step": [0, 3]})
    report = describe_training(tiny_adapted, pairs, pairs, history, corpus, FinetuningOptions(steps=3, seed=0))
    assert report["corpus"] is None
    assert report["data"]["generators"] == report["data"]["languages"] == report["history"] == {}
    assert report["seconds"] is None
