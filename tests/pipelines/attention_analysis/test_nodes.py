from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from embedding_adaptation.attention.options import AttentionOptions
from embedding_adaptation.attention.rows import AttentionError
from embedding_adaptation.datasets.attention import AttentionRowsDataset
from embedding_adaptation.pipelines.attention_analysis import create_pipeline, nodes

TEXTS = pd.DataFrame({"id": [str(n) for n in range(9)], "text": [f"the bus number {n} is late" for n in range(9)]})


def options(**changes):
    return AttentionOptions.model_validate(
        {"max_texts": 4, "seed": 0, "resamples": 20, "occlusion_texts": 2, "examples": ["a late bus"]} | changes
    )


@pytest.fixture(scope="module")
def run(tiny_weights, checkpoints, tmp_path_factory):
    """All nodes one after the other, on files."""
    from embedding_adaptation.options import EmbedderOptions

    embedder = EmbedderOptions.model_validate(
        {
            "device": "cpu",
            "dtype": "float32",
            "max_length": 64,
            "templates": {"one_word": 'This sentence: "{text}" means in one word: "'},
            "strategies": {"prompted": {"weights": "adapted", "template": "one_word", "pooling": "last"}},
            "adapt": "prompted",
        }
    )
    folder = tmp_path_factory.mktemp("run")
    found = {}
    for name, weights in (("base", tiny_weights), ("adapted", replace(tiny_weights, adapter=checkpoints / "step-000025"))):
        recording, occlusion = nodes.record_attention(weights, tiny_weights, TEXTS, options(), embedder)
        dataset = AttentionRowsDataset(filepath=str(folder / name))
        dataset.save(recording)
        rows = dataset.load()
        shares, words = (stream.table() for stream in nodes.measure_attention(rows, options()))
        found[name] = {"rows": rows, "occlusion": occlusion, "shares": shares, "words": words}
    return found, embedder


def test_base_and_adapted_are_measured_on_the_same_texts(run):
    found, _ = run
    assert found["base"]["shares"]["id"].nunique() == 4
    assert found["base"]["shares"]["id"].tolist() == found["adapted"]["shares"]["id"].tolist()
    assert set(found["base"]["shares"]["id"]) <= set(TEXTS["id"])
    assert np.abs(found["base"]["shares"]["text"] - found["adapted"]["shares"]["text"]).max() > 1e-4
    assert found["base"]["occlusion"]["id"].nunique() == 2


def test_tables_figures_and_page_come_from_what_was_measured(run):
    found, embedder = run
    base, adapted = found["base"], found["adapted"]
    layers, overall, heads = nodes.compare_attention(base["shares"], adapted["shares"], options())
    assert "layer" not in overall
    assert overall["measure"].is_unique
    assert len(heads) == 12
    words = nodes.compare_words(base["words"], adapted["words"], options())
    assert {"bus", "late", "the"} <= set(words["word"])
    faithfulness = nodes.compare_with_occlusion(base["rows"], adapted["rows"], base["occlusion"], adapted["occlusion"], options())
    assert faithfulness["layer"].tolist() == ["1", "2", "3", "all", "tokens"]
    assert len(nodes.plot_layers(layers, heads)) == 3
    assert nodes.plot_faithfulness(faithfulness).axes
    example, _, page = nodes.plot_words(base["words"], adapted["words"], words, options(page_texts=2), embedder)
    assert len(example.axes) == 1
    assert page.count("<section") == 2
    assert "example 1" in page


def test_of_private_texts_no_word_or_id_is_shown(run):
    found, embedder = run
    base, adapted = found["base"]["words"], found["adapted"]["words"]
    ranked = nodes.compare_words(base, adapted, options())
    open_page, private_page = (nodes.plot_words(base, adapted, ranked, options(private=private), embedder)[2] for private in (False, True))
    inside = base[base["part"] == "text"]
    for shown in {*inside["word"][inside["kind"] == "content"], *base["id"]}:
        assert f">{shown}<" in open_page
        assert f">{shown}<" not in private_page
        assert f'"{shown}: ' not in private_page
    figure = nodes.plot_words(base, adapted, ranked, options(private=True), embedder)[1]
    labels = {label.get_text() for axis in figure.axes for label in axis.get_yticklabels()}
    assert not labels & set(ranked["word"])


def test_the_first_text_stands_in_for_missing_examples(run):
    found, embedder = run
    base = found["base"]["words"][~found["base"]["words"]["example"]].reset_index(drop=True)
    nothing = nodes.compare_words(base, base, options())
    example, _, _ = nodes.plot_words(base, base, nothing, options(examples=[], shown_layers=[2]), embedder)
    assert len(example.axes) == 1


def test_layers_that_are_shown_must_be_recorded(tiny_weights, embedder_options):
    with pytest.raises(ValueError, match=r"layer 1 in attention_analysis\.shown_layers is not recorded; choose from 2, 3"):
        nodes.record_attention(tiny_weights, tiny_weights, TEXTS, options(layers=[2, -1], shown_layers=[-1, 1]), embedder_options())


def test_an_adapter_of_another_base_model_is_not_compared(tiny_weights, embedder_options):
    other = replace(tiny_weights, card=replace(tiny_weights.card, sha256="0" * 64, source="random:other"))
    with pytest.raises(AttentionError, match=r"the adapter belongs to 'random:other', not to 'random:tiny-llama.*set base_model"):
        nodes.record_attention(other, tiny_weights, TEXTS, options(), embedder_options())


def test_a_template_without_words_behind_the_text_is_remarked(tiny_weights, embedder_options, caplog):
    strategies = {"bare": {"weights": "adapted", "template": "bare", "pooling": "last"}}
    recording, _ = nodes.record_attention(
        tiny_weights, tiny_weights, TEXTS, options(), embedder_options(strategies=strategies, adapt="bare")
    )
    assert "'bare' has no words after the text" in caplog.text
    assert recording.frame.suffix == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spans": {"patterns": {"text": "a"}}}, "the name 'text' is reserved"),
        ({"spans": {"patterns": {"layer": "a"}}}, "the name 'layer' is reserved"),
        ({"spans": {"patterns": {"x": "("}}}, "is not a valid regular expression"),
        ({"examples": ["ok", "  "]}, "example 2 is empty"),
        ({"max_texts": 0}, "max_texts"),
        ({"spans": {"sink": 3}}, "Extra inputs"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        options(**changes)


def test_stop_words_and_spans_reach_the_division():
    division = options(stop_words=["Der", "die"], spans={"sink_tokens": 2, "patterns": {"x": "y"}}, top_k=3).division
    assert division.function_words == {"der", "die"}
    assert (division.sink_tokens, division.top_k, dict(division.patterns)) == (2, 3, {"x": "y"})
    assert "x" in division.measures


def test_base_and_adapted_are_measured_by_the_same_code():
    measuring = [node for node in create_pipeline().nodes if node.name.endswith("record_attention_node")]
    assert sorted(node.namespace for node in measuring) == ["adapted", "base"]
    assert len({node.func for node in measuring}) == 1
