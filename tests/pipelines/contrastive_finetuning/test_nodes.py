from __future__ import annotations

import pandas as pd
import pytest
from pydantic import ValidationError

from embedding_adaptation.pipelines.contrastive_finetuning.nodes import PairsError, plot_training_curve, split_pairs
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions


def options(**changes):
    return FinetuningOptions.model_validate({"steps": 1, "seed": 0} | changes)


def pairs(sources, each=2):
    ids = [str(n) for n in range(sources) for _ in range(each)]
    return pd.DataFrame({"source_id": ids, "source_text": ids, "generated_text": [f"{i}/{n}" for n, i in enumerate(ids)]})


def test_no_source_text_is_on_both_sides_and_no_pair_is_lost():
    train, held_out = split_pairs(pairs(40), options(validation_share=0.25))
    assert set(train["source_id"]).isdisjoint(held_out["source_id"])
    assert len(train) + len(held_out) == 80
    assert held_out["source_id"].nunique() == 10


def test_a_text_on_the_other_side_of_a_pair_is_not_in_both_either():
    neighbours = pd.DataFrame({"source_id": [str(n) for n in range(40)], "other_id": [str(n + 1) if n % 2 else "" for n in range(40)]})
    neighbours = neighbours.assign(source_text=neighbours["source_id"], generated_text="x")
    train, held_out = split_pairs(neighbours, options(validation_share=0.2))
    texts = [set(part["source_id"]) | set(part["other_id"]) - {""} for part in (train, held_out)]
    assert texts[0].isdisjoint(texts[1])
    assert len(held_out) == 8
    assert 20 < len(train) < 32


def test_the_split_follows_the_seed():
    one, two, other = (split_pairs(pairs(40), options(seed=seed))[1]["source_id"].tolist() for seed in (0, 0, 1))
    assert one == two != other


def test_even_a_large_share_leaves_pairs_to_train_on():
    train, held_out = split_pairs(pairs(4), options(validation_share=0.99))
    assert train["source_id"].nunique() == held_out["source_id"].nunique() == 2


def test_pairs_of_too_few_texts_are_refused():
    with pytest.raises(PairsError, match="come from 3 source texts; at least 4 are needed"):
        split_pairs(pairs(3), options(loss="info_nce"))


@pytest.mark.parametrize("changes", [{"steps": 0}, {"batch_size": 1}, {"temperature": 0.0}, {"lora": {"rnak": 4}}, {"epochs": 3}])
def test_wrong_options_are_refused(changes):
    with pytest.raises(ValidationError):
        options(**changes)


def test_the_curve_shows_training_and_held_out_loss():
    history = pd.DataFrame(
        {
            "step": [0, 1, 2],
            "train_loss": [None, 2.0, 1.5],
            "validation_loss": [2.1, None, 1.4],
            "validation_accuracy": [0.2, None, 0.6],
            "seconds": [None, 1.0, 2.0],
        }
    )
    figure = plot_training_curve(history)
    assert {trace.name: list(trace.y) for trace in figure.data} == {
        "training loss": [2.0, 1.5],
        "held-out loss": [2.1, 1.4],
        "held-out accuracy at 1": [0.2, 0.6],
    }
    assert figure.layout.yaxis.title.text == "InfoNCE loss (nats)"


def test_a_loss_that_learns_from_the_corpus_does_without_pairs():
    train, held_out = split_pairs(pairs(3), options(loss="consensus"))
    assert (len(train), len(held_out)) == (len(pairs(3)), 0)
