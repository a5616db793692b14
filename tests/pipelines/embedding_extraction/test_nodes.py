from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.pipelines.embedding_extraction import create_pipeline
from embedding_adaptation.pipelines.embedding_extraction.nodes import extract_embeddings
from embedding_adaptation.pipelines.embedding_extraction.options import ExtractionOptions
from embedding_adaptation.runtime import build_strategy, load_embedder
from embedding_adaptation.texts.stream import TextStream

TEXTS = pd.DataFrame({"id": ["7", "8", "9"], "text": ["the bus is late", "water", "a house"]})
CORPUS_TABLE = pd.DataFrame({"id": list("abcd"), "text": ["street", "garden", "garden", "who will help"]})
CORPUS = TextStream.of(CORPUS_TABLE)
OPTIONS = ExtractionOptions(seed=0)


def adapted(tiny_weights, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(0)
    model = get_peft_model(AutoModel.from_pretrained(tiny_weights.base), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    return dataclasses.replace(tiny_weights, adapter=tmp_path / "adapter")


def test_weights_decide_which_strategies_are_extracted(tiny_weights, embedder_options, tmp_path, store):
    base = extract_embeddings(tiny_weights, TEXTS, CORPUS, store, OPTIONS, embedder_options())
    assert base.after == {}
    assert set(base.vectors) == {"bare_mean", "prompted_last"}
    assert base.ids == ("7", "8", "9")
    tuned = extract_embeddings(adapted(tiny_weights, tmp_path), TEXTS, CORPUS, store, OPTIONS, embedder_options())
    assert set(tuned.vectors) == {"prompted_last_adapted"}
    assert base.weights == tiny_weights.fingerprint() != tuned.weights
    assert base.identities | tuned.identities == embedder_options().identities
    assert np.abs(tuned.vectors["prompted_last_adapted"] - base.vectors["prompted_last"]).max() > 1e-3


def test_both_namespaces_are_one_pipeline(tiny_weights, embedder_options, tmp_path, store):
    pipeline = create_pipeline()
    assert len({node.func for node in pipeline.nodes}) == 1
    catalog = DataCatalog(
        {
            "base_model": MemoryDataset(tiny_weights),
            "adapter": MemoryDataset(adapted(tiny_weights, tmp_path)),
            "labelled_texts": MemoryDataset(TEXTS),
            "corpus": MemoryDataset(CORPUS),
            "embedding_store": MemoryDataset(store, copy_mode="assign"),
            "params:embedder": MemoryDataset(embedder_options()),
            "params:embedding_extraction": MemoryDataset(OPTIONS),
        }
    )
    outputs = SequentialRunner().run(pipeline, catalog)
    assert set(outputs) == {"base_embeddings", "adapted_embeddings"}


def test_strategies_are_chosen_by_name_or_pattern_and_a_grid_is_extracted(tiny_weights, embedder_options, store):
    grid = {"templates": ["bare", "one_word"], "poolings": ["last", "text_mean"], "layers": [-1, 1]}
    options = embedder_options(grid=grid)
    chosen = ExtractionOptions(strategies=("one_word.*", "bare_mean"), seed=0)
    vectors = extract_embeddings(tiny_weights, TEXTS, CORPUS, store, chosen, options).vectors
    assert list(vectors) == ["bare_mean", "one_word.last.-1", "one_word.last.1", "one_word.text_mean.-1", "one_word.text_mean.1"]


def test_after_processing_is_fitted_on_the_corpus_and_kept(tiny_weights, embedder_options, store):
    grid = {"templates": ["bare"], "after": [{"centre": True}]}
    chosen = ExtractionOptions(strategies="bare.last.-1.centre", seed=0)
    embeddings = extract_embeddings(tiny_weights, TEXTS, CORPUS, store, chosen, embedder_options(grid=grid))
    plain = ExtractionOptions(strategies="bare.last.-1", seed=0)
    corpus = extract_embeddings(tiny_weights, CORPUS_TABLE, CORPUS, store, plain, embedder_options(grid={"templates": ["bare"]}))
    rows = np.unique(corpus.vectors["bare.last.-1"], axis=0)
    np.testing.assert_allclose(embeddings.after["bare.last.-1.centre"].mean, rows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings.vectors["bare.last.-1.centre"], axis=1), 1.0, atol=1e-5)


def test_a_second_run_reads_no_text(tiny_weights, embedder_options, store, monkeypatch):
    grid = {"templates": ["bare"], "after": [{"centre": True}]}
    chosen = ExtractionOptions(strategies=("bare_mean", "bare.last.-1.centre"), seed=0)
    options = embedder_options(grid=grid)
    first = extract_embeddings(tiny_weights, TEXTS, CORPUS, store, chosen, options)
    monkeypatch.setattr(Embedder, "encode_strategies", lambda *arguments, **keywords: pytest.fail("a text is read again"))
    again = extract_embeddings(tiny_weights, TEXTS, CORPUS, store, chosen, options)
    assert list(again.vectors) == list(first.vectors)
    for name, vectors in first.vectors.items():
        np.testing.assert_array_equal(again.vectors[name], vectors)


def test_vectors_from_the_store_are_those_of_plain_encoding(tiny_weights, embedder_options, store):
    chosen = ExtractionOptions(strategies=("bare_mean", "prompted_last"), seed=0)
    options = embedder_options()
    found = extract_embeddings(tiny_weights, TEXTS, CORPUS, store, chosen, options)
    embedder = load_embedder(tiny_weights, options)
    for name, vectors in found.vectors.items():
        plain = embedder.encode(TEXTS["text"].tolist(), build_strategy(name, options), progress=False)
        np.testing.assert_allclose(vectors, plain, atol=1e-6)
