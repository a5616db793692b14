from __future__ import annotations

import dataclasses
import shutil

import pytest

from embedding_adaptation.pipelines.text_clustering.naming import conversation, name_clusters, usable_names

TEXTS = [["the bus is late", "where is the bus"]]


@pytest.fixture
def options(make_options):
    naming = {
        "system_prompt": "You name.",
        "instruction": "Name these:\n{texts}",
        "examples": [{"texts": ["hail", "snow"], "name": "Bad weather"}],
        "max_words": 4,
        "text_characters": 20,
    }
    return make_options(naming=naming).naming


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("Late buses", "Late buses"),
        ('"Late buses."', "Late buses"),
        ("\n\nTopic: late buses\nBecause ...", "late buses"),
        ("", ""),
        ("!!!", ""),
        ("1. 2.", ""),
        ("I'm sorry, but I can't assist with that", ""),
        ("Sure, here it is", ""),
        ("All of these are about a bus that is late", ""),
        ("Bad Weather", ""),
        ("x" * 80, ""),
    ],
)
def test_an_answer_is_a_name_or_nothing(options, answer, name):
    assert usable_names([(answer, True)], TEXTS, options) == [name]


def test_an_answer_that_was_cut_off_is_no_name(options):
    assert usable_names([("Late", False)], TEXTS, options) == [""]


def test_the_model_is_shown_examples_and_cut_texts(options):
    turns = conversation(["a very long text indeed, longer than twenty", "b\nc"], options)
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == "Bad weather"
    assert turns[3]["content"] == "Name these:\n- a very long text ind\n- b c"


def test_distinctive_words_take_the_place_of_a_model_that_is_not_asked(options, tiny_weights, embedder_options):
    words = [["bus", "late", "stop", "red"], ["bus", "late", "stop"], [], ["bus", "late", "stop"]]
    names = name_clusters([["x"]] * 4, words, tiny_weights, options.model_copy(update={"model": False}), embedder_options())
    assert [name.name for name in names] == ["bus, late, stop", "bus, late, stop (bus)", "cluster 2", "bus, late, stop (late)"]
    assert {name.source for name in names} == {"words"}


def test_a_model_without_chat_template_is_not_asked(options, tiny_weights, embedder_options, tmp_path, caplog):
    folder = tmp_path / "plain"
    shutil.copytree(tiny_weights.base, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    weights = dataclasses.replace(tiny_weights, base=folder)
    (name,) = name_clusters(TEXTS, [["bus"]], weights, options, embedder_options())
    assert (name.name, name.source) == ("bus", "words")
    assert "has no chat template" in caplog.text


def test_the_model_is_asked_once_a_cluster_and_every_cluster_gets_its_own_name(options, tiny_weights, embedder_options):
    texts = [["the bus is late", "bus"], ["water is cold"], ["word " * 3000]]
    options = options.model_copy(update={"text_characters": 15_000})
    names = name_clusters(texts, [["bus"], ["water"], ["word"]], tiny_weights, options, embedder_options())
    assert len({name.name.lower() for name in names}) == 3
    assert names[2].name == "word"  # not even one text fits the model's window
    again = name_clusters(texts, [["bus"], ["water"], ["word"]], tiny_weights, options, embedder_options())
    assert names == again
