from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.datasets.embeddings import Embeddings
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.pipelines.model_export.card import model_card
from embedding_adaptation.pipelines.model_export.facts import describe_model
from embedding_adaptation.pipelines.model_export.nodes import export_embedder
from embedding_adaptation.pipelines.model_export.options import ExportOptions
from embedding_adaptation.runtime import fitted_strategies, load_embedder
from embedding_adaptation.texts.stream import TextStream

TEXTS = [f"{word} number {row}" for row in range(6) for word in ("apple", "train", "cloud")]
CORPUS = TextStream.of(pd.DataFrame({"id": [str(row) for row in range(len(TEXTS))], "text": TEXTS}))
NOTHING = Embeddings((), {})


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_the_adapter_is_merged_on_the_cpu_in_the_format_asked_for(tiny_adapted, model_facts, embedder_options, dtype, tolerance, store):
    options = embedder_options()
    value = export_embedder(tiny_adapted, model_facts, NOTHING, NOTHING, CORPUS, store, ExportOptions(dtype=dtype), options)
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


def test_what_was_extracted_is_what_is_exported(tiny_adapted, model_facts, embedder_options, store):
    options = distilling(embedder_options)
    chosen = {"distilled": options.strategies["distilled"]}
    embedder = load_embedder(tiny_adapted, options)
    (fitted,) = fitted_strategies(embedder, chosen, options, lambda: TEXTS[:12])
    vectors = {"distilled": embedder.encode(TEXTS, fitted, progress=False)}
    extracted = Embeddings(tuple(TEXTS), vectors, tiny_adapted.fingerprint(), options.identities, {"distilled": fitted.after})
    value = export_embedder(
        tiny_adapted,
        model_facts,
        NOTHING,
        extracted,
        CORPUS,
        store,
        ExportOptions(strategy="distilled"),
        options,
    )
    np.testing.assert_allclose(value.embedder.encode(TEXTS, progress=False), vectors["distilled"], atol=1e-4)
    assert value.facts["dimensions"] == vectors["distilled"].shape[1]


def test_without_vectors_of_this_adapter_after_processing_is_fitted_on_the_corpus(
    tiny_adapted, model_facts, embedder_options, caplog, store
):
    caplog.set_level("INFO")
    options = distilling(embedder_options)
    embedder = load_embedder(tiny_adapted, options)
    (fitted,) = fitted_strategies(embedder, {"distilled": options.strategies["distilled"]}, options, lambda: TEXTS)
    of_others = Embeddings((), {}, "another", options.identities, {"distilled": fitted.after})
    value = export_embedder(
        tiny_adapted,
        model_facts,
        NOTHING,
        of_others,
        CORPUS,
        store,
        ExportOptions(strategy="distilled"),
        options,
    )
    assert "it is fitted on the corpus" in caplog.text
    # These are not the texts that the adapter was trained on.
    assert re.search(r"after-processing is fitted on .*, but the adapter was trained on .*--params corpus=FILE", caplog.text)
    found = value.embedder.encode(TEXTS, progress=False)
    np.testing.assert_allclose(found @ found.T, (expected := embedder.encode(TEXTS, fitted, progress=False)) @ expected.T, atol=1e-3)


def verdict_on(weights, ship):
    return {
        "adapter": weights.fingerprint(),
        "ship": ship,
        "verdict": "worse",
        "decided_by": "agreement",
        "kept": 1.0,
        "sentence": "It did not help.",
    }


def guarded(tiny_adapted, training_report, evaluation_report, verdict, options, **changes):
    return describe_model(
        tiny_adapted, training_report, evaluation_report, verdict, ExportOptions(strategy="distilled", **changes), options
    )


def with_twin(embedder_options):
    options = distilling(embedder_options)
    strategies = options.model_dump()["strategies"]
    strategies["distilled_before"] = strategies["distilled"] | {"weights": "base"}
    return embedder_options(strategies=strategies, teacher={"strategy": "bare_mean", "neighbours": 3})


def test_if_adaptation_did_not_help_the_base_weights_are_exported(
    tiny_adapted, tiny_weights, training_report, evaluation_report, embedder_options, caplog, store
):
    options = with_twin(embedder_options)
    facts = guarded(tiny_adapted, training_report, {}, verdict_on(tiny_adapted, "base"), options)
    assert (facts["strategy"]["name"], facts["strategy"]["weights"]) == ("distilled_before", "base")
    assert facts["fingerprint"] == tiny_weights.fingerprint()
    assert "adaptation was not found to help (by agreement), so 'distilled_before' of the base weights is exported" in caplog.text
    chosen = {"distilled_before": options.strategies["distilled_before"]}
    embedder = load_embedder(tiny_weights, options)
    (fitted,) = fitted_strategies(embedder, chosen, options, lambda: TEXTS)
    vectors = {"distilled_before": embedder.encode(TEXTS, fitted, progress=False)}
    extracted = Embeddings(tuple(TEXTS), vectors, tiny_weights.fingerprint(), options.identities, {"distilled_before": fitted.after})
    value = export_embedder(tiny_adapted, facts, extracted, NOTHING, CORPUS, store, ExportOptions(strategy="distilled"), options)
    np.testing.assert_allclose(value.embedder.encode(TEXTS, progress=False), vectors["distilled_before"], atol=1e-4)
    assert "fine-tuning them was tried and not found to help" in value.card
    assert "It did not help." in value.card


@pytest.mark.parametrize(("ship", "guard"), [("adapted", True), ("base", False)])
def test_otherwise_the_adapted_ones_are(tiny_adapted, training_report, evaluation_report, embedder_options, ship, guard):
    facts = guarded(
        tiny_adapted, training_report, evaluation_report, verdict_on(tiny_adapted, ship), with_twin(embedder_options), guard=guard
    )
    assert (facts["strategy"]["name"], facts["fingerprint"]) == ("distilled", tiny_adapted.fingerprint())
    assert facts["verdict"]["sentence"] == "It did not help."


def test_a_verdict_on_another_adapter_or_without_a_way_out_is_told(
    tiny_adapted, training_report, evaluation_report, embedder_options, caplog
):
    other = verdict_on(tiny_adapted, "base") | {"adapter": "x"}
    facts = guarded(tiny_adapted, training_report, evaluation_report, other, with_twin(embedder_options))
    assert (facts["strategy"]["name"], facts["verdict"]) == ("distilled", None)
    assert "the verdict is about another adapter and does not count" in caplog.text
    facts = guarded(tiny_adapted, training_report, evaluation_report, verdict_on(tiny_adapted, "base"), distilling(embedder_options))
    assert facts["strategy"]["name"] == "distilled"
    assert "and yet 'distilled' is exported: there is no such strategy of the base weights" in caplog.text


@pytest.mark.parametrize(
    ("adapted", "base", "decided_by", "ship", "exported", "chosen_by"),
    [
        (0.6, 0.5, "agreement", "base", "distilled", "labels"),
        (0.4, 0.5, "agreement", "adapted", "distilled_before", "labels"),
        (0.4, 0.5, "answers", "adapted", "distilled", "answers"),
        (0.6, 0.5, "answers", "base", "distilled_before", "answers"),
        (None, 0.5, "agreement", "base", "distilled_before", "agreement"),
    ],
)
def test_answers_decide_before_labels_and_these_before_agreement(
    tiny_adapted, training_report, evaluation_report, embedder_options, adapted, base, decided_by, ship, exported, chosen_by
):
    options = with_twin(embedder_options)
    scored = {"distilled": adapted, "distilled_before": base}
    strategies = {
        name: {"definition": options.definition(name), "scores": {"v_measure": {"mean": mean, "sd": 0.01}}}
        for name, mean in scored.items()
        if mean is not None
    }
    verdict = verdict_on(tiny_adapted, ship) | {"decided_by": decided_by}
    facts = guarded(tiny_adapted, training_report, evaluation_report | {"strategies": strategies}, verdict, options)
    assert (facts["strategy"]["name"], facts["chosen_by"]) == (exported, chosen_by)
    assert ("decided by the labelled texts" in model_card(facts | {"dimensions": 32, "older_versions": True})) == (chosen_by == "labels")
