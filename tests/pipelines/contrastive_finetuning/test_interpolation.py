from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from embedding_adaptation.pipelines.contrastive_finetuning import interpolation
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.interpolation import chosen_scale, scale_adapter, shared_neighbours
from embedding_adaptation.pipelines.contrastive_finetuning.options import InterpolationOptions
from embedding_adaptation.pipelines.contrastive_finetuning.setup import prepare

SCALES = {"scales": [0.5, 1.0]}


def rows(*agreements):
    return [{"scale": scale, "agreement": agreement} for scale, agreement in zip((0.0, 0.25, 0.5, 0.75, 1.0), agreements, strict=True)]


@pytest.mark.parametrize(
    ("agreements", "kept"),
    [
        ((0.2, 0.3, 0.4, 0.5, 0.6), 1.0),
        ((0.2, 0.3, 0.605, 0.5, 0.6), 1.0),  # within the tolerance
        ((0.2, 0.3, 0.62, 0.5, 0.6), 0.5),
        ((0.6, 0.5, 0.4, 0.3, 0.2), 0.0),
        ((np.nan, np.nan, np.nan, np.nan, np.nan), 1.0),
    ],
)
def test_the_largest_scale_that_is_as_good_as_any_is_kept(agreements, kept):
    assert chosen_scale(rows(*agreements), 0.01) == kept


def test_shared_neighbours_are_counted_without_their_order():
    assert shared_neighbours(np.array([[1, 2], [0, 2]]), np.array([[2, 1], [0, 3]])) == 0.75


@pytest.mark.parametrize("lora", [{}, {"weight_decomposed": True}, {"rank_stabilised": True}])
def test_scales_lie_on_a_line_from_the_base_model_to_the_trained_one(job_of, tmp_path, lora):
    texts = ["a bus in the street", "water for the garden"]
    setup = prepare(job_of(lora=lora), tmp_path)
    with setup.model.disable_adapter():
        base = setup.encode(texts)
    with torch.no_grad():
        for name, weight in setup.model.named_parameters():
            if name in setup.initial:
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    trained = {name: weight.detach().clone() for name, weight in setup.model.named_parameters() if name in setup.initial}
    whole = setup.encode(texts)
    scale_adapter(setup, trained, 0.0)
    np.testing.assert_allclose(setup.encode(texts), base, atol=1e-5)
    scale_adapter(setup, trained, 1.0)
    np.testing.assert_allclose(setup.encode(texts), whole, atol=1e-6)
    scale_adapter(setup, trained, 0.5)
    half = setup.encode(texts)
    assert np.abs(half - base).max() > 1e-4
    assert np.abs(half - whole).max() > 1e-4


def of_agreement(monkeypatch, values):
    """Let the view say what it is told."""
    told = iter(values)
    monkeypatch.setattr(interpolation.CharacterView, "agreement", lambda self, vectors: next(told))


def test_training_that_went_wrong_is_taken_back(job_of, corpus, monkeypatch, caplog):
    of_agreement(monkeypatch, (0.5, 0.4, 0.3))
    adapter, _ = train(job_of(corpus=corpus, interpolation=SCALES))
    assert [(row["scale"], row["agreement"], row["chosen"]) for row in adapter.scales] == [
        (0.0, 0.5, 1.0),
        (0.5, 0.4, 0.0),
        (1.0, 0.3, 0.0),
    ]
    assert adapter.scales[0]["change"] == 0
    assert all(not weight.any() for name, weight in adapter.model.named_parameters() if "lora_B" in name)
    assert "kept 0 of the adapter; agreement with the texts' characters by scale: 0: 0.500, 0.5: 0.400, 1: 0.300" in caplog.text


def test_half_of_the_adapter_is_half_of_its_weights(job_of, corpus, monkeypatch):
    of_agreement(monkeypatch, (0.3, 0.5, 0.4))
    half, _ = train(job_of(corpus=corpus, interpolation=SCALES))
    whole, _ = train(job_of(corpus=corpus))
    expected = dict(whole.model.named_parameters())
    for name, weight in half.model.named_parameters():
        if "lora_" in name:
            torch.testing.assert_close(weight, expected[name] * (0.5 if "lora_B" in name else 1.0))


def test_the_whole_adapter_is_kept_where_nothing_can_be_measured(job_of, corpus, tmp_path):
    assert train(job_of(corpus=corpus.head(5), interpolation=SCALES))[0].scales == []
    assert train(job_of(corpus=corpus))[0].scales == []


def test_measures_are_real_and_saved_with_the_adapter(job_of, corpus, tiny_weights, tmp_path):
    from embedding_adaptation.datasets.adapter import AdapterDataset, read_adapter_card
    from embedding_adaptation.embedder.weights import DecoderWeights

    adapter, _ = train(job_of(corpus=corpus, interpolation=SCALES))
    table = pd.DataFrame(adapter.scales)
    assert table["scale"].tolist() == [0.0, 0.5, 1.0]
    assert table["chosen"].sum() == 1
    assert table["agreement"].between(-1, 1).all()
    assert table["change"].iloc[0] == 0
    AdapterDataset(filepath=str(tmp_path / "a"), base_model=str(tiny_weights.base)).save(adapter)
    card = read_adapter_card(DecoderWeights(tiny_weights.base, tiny_weights.card, adapter=tmp_path / "a"))
    assert card["scales"] == table.to_dict("records")


@pytest.mark.parametrize("scale", [0.0, -0.5, 1.5])
def test_scales_beyond_the_line_are_refused(scale):
    with pytest.raises(ValueError, match=r"is not between 0 .*the base model.* and 1"):
        InterpolationOptions(scales=(0.5, scale))
