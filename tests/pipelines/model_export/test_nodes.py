from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.datasets.embeddings import Embeddings
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.pipelines.model_export.nodes import export_embedder
from embedding_adaptation.pipelines.model_export.options import ExportOptions
from embedding_adaptation.runtime import fitted_strategies, load_embedder
from embedding_adaptation.texts.stream import TextStream

TEXTS = [f"{word} number {row}" for row in range(6) for word in ("apple", "train", "cloud")]
CORPUS = TextStream.of(pd.DataFrame({"id": [str(row) for row in range(len(TEXTS))], "text": TEXTS}))
NOTHING = Embeddings((), {})


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_the_adapter_is_merged_on_the_cpu_in_the_format_asked_for(tiny_adapted, model_facts, embedder_options, dtype, tolerance):
    options = embedder_options()
    value = export_embedder(tiny_adapted, model_facts, NOTHING, NOTHING, CORPUS, ExportOptions(dtype=dtype), options)
    assert not hasattr(value.embedder.backbone, "peft_config")
    assert str(value.embedder.backbone.dtype) == f"torch.{dtype}"
    assert value.facts["dimensions"] == 32
    assert value.card.startswith("---\n")
    expected = Embedder.load(tiny_adapted, device="cpu", dtype="float32", max_length=64).encode(["water"], value.strategy, progress=False)
    np.testing.assert_allclose(value.embedder.encode(["water"], progress=False), expected, atol=tolerance)


def distilling(embedder_options):
    strategies = embedder_options().model_dump()["strategies"]
    strategies["distilled"] = {"weights": "adapted", "template": "one_word", "pooling": "last", "after": {"distil": True}}
    return embedder_options(strategies=strategies, teacher={"strategy": "bare_mean", "neighbours": 3})


def test_what_was_extracted_is_what_is_exported(tiny_adapted, model_facts, embedder_options):
    options = distilling(embedder_options)
    chosen = {"distilled": options.strategies["distilled"]}
    embedder = load_embedder(tiny_adapted, options)
    (fitted,) = fitted_strategies(embedder, chosen, options, lambda: TEXTS[:12])
    vectors = {"distilled": embedder.encode(TEXTS, fitted, progress=False)}
    extracted = Embeddings(tuple(TEXTS), vectors, tiny_adapted.fingerprint(), options.identities, {"distilled": fitted.after})
    value = export_embedder(tiny_adapted, model_facts, NOTHING, extracted, CORPUS, ExportOptions(strategy="distilled"), options)
    np.testing.assert_allclose(value.embedder.encode(TEXTS, progress=False), vectors["distilled"], atol=1e-4)
    assert value.facts["dimensions"] == vectors["distilled"].shape[1]


def test_without_vectors_of_this_adapter_after_processing_is_fitted_on_the_corpus(tiny_adapted, model_facts, embedder_options, caplog):
    caplog.set_level("INFO")
    options = distilling(embedder_options)
    embedder = load_embedder(tiny_adapted, options)
    (fitted,) = fitted_strategies(embedder, {"distilled": options.strategies["distilled"]}, options, lambda: TEXTS)
    of_others = Embeddings((), {}, "another", options.identities, {"distilled": fitted.after})
    value = export_embedder(tiny_adapted, model_facts, NOTHING, of_others, CORPUS, ExportOptions(strategy="distilled"), options)
    assert "it is fitted on the corpus" in caplog.text
    found = value.embedder.encode(TEXTS, progress=False)
    np.testing.assert_allclose(found @ found.T, (expected := embedder.encode(TEXTS, fitted, progress=False)) @ expected.T, atol=1e-3)
