from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.pages.adaptation import MovedText, Reports, adaptation_page
from embedding_adaptation.pages.clusters import clusters_page
from embedding_adaptation.verdict.options import QuestionsOptions
from embedding_adaptation.verdict.questions import Question, questions_table
from page_fixtures import ATTENTION

NASTY = ["</script><b>bold</b>", "cats & dogs <img src=x onerror=alert(1)>", 'a "quoted" one \u2028 of two lines', "🙂 مرحبا"]
NAMES = ["late buses", "plum cakes"]


def points(count, seed=0):
    generator = np.random.default_rng(seed)
    texts = [*NASTY, *(f"secretword number {row} of the {NAMES[row % 2]}" for row in range(count - len(NASTY)))]
    frame = pd.DataFrame({"id": [str(row) for row in range(count)], "text": texts, "cluster": np.arange(count) % 2})
    for name in ("x", "y", "base_x", "base_y", "adapted_x", "adapted_y"):
        frame[name] = generator.normal(size=count) + 4 * frame["cluster"]
    return frame


SUMMARY = pd.DataFrame(
    {
        "cluster": [0, 1, -1],
        "name": [*NAMES, "noise"],
        "size": [30, 60, 10],
        "share": [0.3, 0.6, 0.1],
        "cohesion": [0.9, 0.8, float("nan")],
        "words": ["secretword, bus", "secretword, cake", ""],
        "nearest_1": ["secretword bus", "secretword cake", "secretword stray"],
        "nearest_2": ["secretword stop", "", None],
    }
)
MERGES = pd.DataFrame({"left_name": [NAMES[0]], "right_name": [NAMES[1]], "distance": [0.25], "texts": [90]})


@pytest.fixture
def reports(model_facts):
    scales = [
        {"scale": 0.0, "agreement": 0.1, "change": 0.0, "chosen": 0.0},
        {"scale": 1.0, "agreement": 0.3, "change": 0.5, "chosen": 1.0},
    ]
    pair = {"source_text": "secretword one", "generated_text": "secretword two"}
    return Reports(
        facts=model_facts,
        verdict={"verdict": "better", "sentence": "It is <better>.", "scales": scales},
        training={
            "corpus": {"kept": 90},
            "trained": {"step": 12, "last_step": 24},
            "cost": {"seconds": 130.0, "tokens": 1234.0},
            "history": {"validation_loss": {"before": 2.0, "after": 1.0}},
            "options": {"loss": "consensus", "lora": {"rank": 16, "layers": "upper_half"}},
        },
        history=pd.DataFrame({"step": [0, 1, 2], "train_loss": [np.nan, 2.0, 1.5], "validation_loss": [2.0, np.nan, 1.0]}),
        augmentation={
            "accepted": 7,
            "candidates": 9,
            "rejected": {"copy": 2, "empty": 0},
            "generators": {"neighbours": {"accepted": 7}},
            "examples": {"neighbours": {"all": {"accepted": [pair], "copy": [pair]}}},
        },
        clustering={"weights": "adapted", "strategy": "consensus_adapted"},
    )


QUESTIONS = [
    Question(f"secretword asks {row} & {NASTY[row % 4]}", f"one {row}", f"other {row}", "base" if row % 3 else "adapted")
    for row in range(12)
]


@pytest.fixture
def adaptation(reports):
    def make(count=100, *, private=False, attention=ATTENTION, longest="", questions=QUESTIONS, **changes):
        values = reports.__dict__ | changes
        moved = [MovedText("secretword moved" + longest, ("secretword old",), ("secretword old", "secretword new"))]
        return adaptation_page(
            Reports(**values),
            points(count).assign(text=lambda frame: frame["text"] + longest) if count else points(9).head(0),
            SUMMARY,
            moved,
            attention,
            (questions_table("this adapter", questions), QuestionsOptions()),
            total=100,
            corpus="secretword.csv",
            private=private,
        )

    return make


@pytest.fixture
def clusters():
    def make(count=100, *, private=False, total=None, more=0, longest=""):
        others = points(more, 1)[["id", "text"]].assign(cluster=-1) if more else points(9)[["id", "text", "cluster"]].head(0)
        drawn, others = (table.assign(text=table["text"] + longest) for table in (points(count), others))
        summary = SUMMARY.assign(nearest_1=SUMMARY["nearest_1"] + longest)
        facts = {"texts": total or count + more, "strategy": "consensus", "weights": "base"}
        return clusters_page(drawn, summary, MERGES, facts, others=others, corpus="secretword.csv", private=private, no_structure=False)

    return make
