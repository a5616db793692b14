from __future__ import annotations

import numpy as np
import pytest
import torch

from embedding_adaptation.embedder.attention_swap import UnsupportedDecoderError
from embedding_adaptation.embedder.quantised import has_kernel
from embedding_adaptation.embedder.training_pass import TrainingPass
from embedding_adaptation.pipelines.contrastive_finetuning import setup as module
from embedding_adaptation.pipelines.contrastive_finetuning.batches import PairBatches
from embedding_adaptation.pipelines.contrastive_finetuning.checkpoints import TrainingState
from embedding_adaptation.pipelines.contrastive_finetuning.devices import train
from embedding_adaptation.pipelines.contrastive_finetuning.info_nce import contrastive_loss
from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingError
from embedding_adaptation.pipelines.contrastive_finetuning.setup import Round, TokenRows, prepare


def test_rows_of_tokens_are_kept_as_they_are():
    rows = [(3, 1), (), (7,), (2**31 - 1, 0, 5)]
    kept = TokenRows(iter(rows))
    assert [kept[place] for place in range(len(kept))] == rows
    assert len(TokenRows([])) == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_each_process_has_its_part_of_a_batch_in_order_of_length(monkeypatch, processes):
    groups, lengths = np.arange(16).reshape(8, 2), np.array([5, 3, 9, 1, 7, 3, 2, 8])
    plain = PairBatches(groups, batch_size=8, steps=2, seed=0)
    monkeypatch.setattr(module, "world_size", lambda: processes)
    sorted_batches = list(Round(0, 2, (), lengths, plain, lambda columns, batch: columns[0].sum()).batches(0))
    size = 8 // processes
    for batch, drawn in zip(sorted_batches, plain, strict=True):
        for start in range(0, 8, size):
            assert set(batch[start : start + size]) == set(drawn[start : start + size])
            assert np.all(np.diff(lengths[batch[start : start + size]]) >= 0)


@pytest.mark.skipif(not has_kernel(), reason="this processor has no exact products of 8-bit integers")
def test_what_is_trained_stays_in_float32_where_texts_are_read_in_8_bits(job_of, tmp_path):
    losses, names = [], []
    for dtype in ("float32", "int8"):
        setup = prepare(job_of(9, embedder={"dtype": dtype}), tmp_path / dtype)
        assert setup.embedder.number_format == "float32"
        rows = setup.round(TrainingState())
        embedded = setup.cache.forward(rows.rows(list(range(6))))
        losses.append(rows.loss(embedded.columns, list(range(6))))
        names.append(setup.checkpoints.folder.name)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    assert names[0] == names[1], "nothing was read in 8 bits"


def test_the_loss_of_a_batch_has_the_gradients_of_one_plain_pass(job_of, pairs, tmp_path):
    """Packed rows, frozen lower layers and chunks against sentence-transformers' modules over the whole padded batch."""
    frame = pairs(9).assign(source_text=lambda f: f["source_text"] + [" again" * (n * 5 % 7) for n in range(9)])
    apart = {"same_source": False, "near_duplicate": None}
    job = job_of(frame, lora={"layers": [1, 2]}, false_negatives=apart, symmetric=False, activation_mb=0)
    setup = prepare(job, tmp_path)
    with torch.no_grad():
        for name, weight in setup.model.named_parameters():
            if "lora_B" in name:  # an adapter starts as zero, and with it many gradients
                weight.normal_(std=0.05)

    def gradients():
        found = {name: weight.grad.clone() for name, weight in setup.model.named_parameters() if weight.grad is not None}
        setup.model.zero_grad()
        return found

    now, batch = setup.round(TrainingState()), list(range(9))
    embedded = setup.cache.forward(now.rows(batch))
    setup.cache.backward(embedded, now.loss(embedded.columns, batch))
    of_fast = gradients()
    model = setup.embedder.sentence_transformer(setup.strategy)
    one, two = (
        torch.nn.functional.normalize(model(model.preprocess(frame[name].tolist()))["sentence_embedding"], dim=-1)
        for name in ("source_text", "generated_text")
    )
    torch.nn.functional.cross_entropy(one @ two.T / job.options.temperature, torch.arange(9)).backward()
    of_slow = gradients()
    assert setup.cache.training_pass.first_layer == 1
    assert of_fast.keys() == of_slow.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in of_slow.values())
    for name, expected in of_slow.items():
        torch.testing.assert_close(of_fast[name], expected, atol=1e-5, rtol=1e-4)


def test_pairs_that_share_a_group_are_no_negatives(job_of):
    columns = [torch.randn(3, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    options = job_of(temperature=1.0).options
    apart = contrastive_loss(columns, np.array([[0, 1], [2, 3], [4, 5]]), options)
    together = contrastive_loss(columns, np.array([[0, 1], [2, 0], [4, 5]]), options)
    assert together < apart


def test_each_process_takes_its_part_of_a_batch(job_of, monkeypatch, tmp_path):
    setup = prepare(job_of(), tmp_path)
    now = setup.round(TrainingState())
    batch = next(now.batches(0))
    whole = now.rows(batch)
    parts = []
    for number in range(2):
        monkeypatch.setattr(module, "world_size", lambda: 2)
        monkeypatch.setattr(module, "rank", lambda number=number: number)
        parts.append(now.rows(batch))
    assert [one + other for one, other in zip(*parts, strict=True)] == whole
    assert [len(column) for column in parts[0]] == [3, 3]


def test_a_batch_that_the_processes_cannot_share_is_refused(job_of, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "world_size", lambda: 4)
    with pytest.raises(TrainingError, match=r"batch_size \(6\) is not divisible by 4 processes; choose a multiple"):
        prepare(job_of(), tmp_path)


def test_a_decoder_that_does_not_pack_is_trained_the_slow_way(job_of, monkeypatch, caplog):
    def refuse(self, rows):
        raise UnsupportedDecoderError("its layers mix tokens")

    _, expected = train(job_of(12, 4))
    monkeypatch.setattr(TrainingPass, "check", refuse)
    _, history = train(job_of(12, 4))
    assert "training the slow way, on padded texts and through all layers: its layers mix tokens" in caplog.text
    np.testing.assert_allclose(history["train_loss"].dropna(), expected["train_loss"].dropna(), rtol=1e-3)


def test_neighbours_are_compared_with_those_of_the_reference(job_of, corpus):
    _, without = train(job_of(corpus=corpus))
    assert without["neighbour_agreement"].isna().all()
    _, history = train(job_of(corpus=corpus, stopping={"reference": "prompted_last"}))
    assert history["neighbour_agreement"].iloc[0] == 1.0  # an adapter that is new changes nothing
    assert history["neighbour_agreement"].dropna().between(0, 1).all()
