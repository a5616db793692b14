from __future__ import annotations

import dataclasses
import json
import shutil

import pandas as pd
import pytest

from embedding_adaptation.datasets.adapter import ADAPTER_CARD_FILE
from embedding_adaptation.identity import CorpusIdentity
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.contrastive_finetuning.report import corpus_of, describe_training

CORPUS = {"corpus": "mine.txt", "texts": 12, "kept": 9, "identity": {"clean": "c" * 32, "raw": "a" * 32}}


def without_corpus(adapted, folder):
    shutil.copytree(adapted.adapter, folder / "adapter")
    card = folder / "adapter" / ADAPTER_CARD_FILE
    card.write_text(json.dumps(json.loads(card.read_text()) | {"corpus": None}))
    return dataclasses.replace(adapted, adapter=folder / "adapter")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["c" * 32, "c" * 32], CorpusIdentity("mine.txt", 9, "c" * 32, "a" * 32)),
        (["c" * 32, ""], CorpusIdentity("mine.txt", 9, "c" * 32, "a" * 32)),
        (["d" * 32, "d" * 32], CorpusIdentity("", 0, "d" * 32)),
        (["c" * 32, "d" * 32], None),
        (["", ""], None),
    ],
    ids=["the corpus", "the corpus and given pairs", "a corpus cleaned since", "two corpora", "given pairs only"],
)
def test_the_pairs_say_which_corpus_they_come_from(column, expected):
    assert corpus_of(pd.DataFrame({"corpus": column}), CORPUS) == expected


def test_the_training_report_names_the_corpus_of_the_adapter(training_report):
    assert training_report["corpus"] == {"name": "mine.txt", "texts": 12, "kept": 9, "identity": CORPUS["identity"]}


def test_the_report_counts_pairs_and_measures_up_to_the_chosen_step(training_report, tiny_adapted):
    assert training_report["adapter"] == tiny_adapted.fingerprint()
    assert (training_report["trained"]["step"], training_report["trained"]["last_step"]) == (3, 4)
    assert training_report["data"]["texts"] == 2
    assert training_report["data"]["generators"]["noise"] == {"pairs": 1, "models": []}
    assert training_report["data"]["languages"] == {"en": 2}
    assert training_report["history"] == {"validation_loss": {"before": 2.5, "after": 1.25}}
    assert training_report["cost"] == {"seconds": 90.0}


def test_pairs_of_the_users_own_are_not_said_to_come_from_the_corpus(tiny_adapted, tmp_path):
    pairs = pd.DataFrame({"source_id": ["1"], "source_text": ["a"], "generated_text": ["b"]})
    history = pd.DataFrame({"step": [0, 3]})
    assert corpus_of(pairs, CORPUS) is None
    adapter = without_corpus(tiny_adapted, tmp_path)
    report = describe_training(adapter, pairs, pairs, history, CORPUS, FinetuningOptions(steps=3, seed=0))
    assert report["corpus"] is None
    assert report["data"]["generators"] == report["data"]["languages"] == report["history"] == report["cost"] == {}
