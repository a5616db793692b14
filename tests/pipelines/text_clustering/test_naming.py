from __future__ import annotations

import dataclasses
import logging
import shutil

import pytest

from chat_fixtures import KEY, answer
from embedding_adaptation.chat_server import ChatServerError
from embedding_adaptation.options import ServerOptions
from embedding_adaptation.pipelines.text_clustering import naming
from embedding_adaptation.pipelines.text_clustering.naming import conversation, model_answers, name_clusters, usable_names

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


def asked(options, **changes):
    return options.model_copy(update={"min_parameters": 0, **changes})


@pytest.fixture
def answering(monkeypatch):
    """Let the base model answer with given names."""

    def propose(*names):
        monkeypatch.setattr(naming, "model_answers", lambda *_: [(name, True) for name in names])

    return propose


def test_distinctive_words_take_the_place_of_a_model_that_is_not_asked(options, tiny_weights, embedder_options):
    words = [["bus", "late", "stop", "red"], ["bus", "late", "stop"], [], ["bus", "stop", "late"], ["Bus", "late", "stop", "red", "card"]]
    names = name_clusters([["x"]] * 5, words, tiny_weights, asked(options, model=False), embedder_options())
    assert [name.name for name in names] == [
        "bus · late · stop", "bus · late · stop (2)", "cluster 2", "bus · stop · late (3)", "Bus · late · stop · card"
    ]  # fmt: skip
    assert {name.source for name in names} == {"words"}


def test_a_model_that_is_too_small_is_not_asked(options, tiny_weights, embedder_options, answering, caplog):
    answering("Late bus")
    with caplog.at_level(logging.INFO):
        (name,) = name_clusters(TEXTS, [["bus"]], tiny_weights, options, embedder_options())
    assert (name.name, name.source) == ("bus", "words")
    assert "40,672 parameters, and names by models of fewer than 1,000,000,000 (text_clustering.naming.min_parameters)" in caplog.text
    (name,) = name_clusters(TEXTS, [["bus"]], tiny_weights, asked(options, min_parameters=40_672), embedder_options())
    assert (name.name, name.source) == ("Late bus", "model")


def test_a_proposal_needs_one_of_the_clusters_words_in_whatever_form(options, tiny_weights, embedder_options, answering, caplog):
    answering("Bus stops", "Weather in spring", "Identity verification", "Public holidays")
    words = [["late", "stop"], ["bus", "card"], ["verify"], []]
    with caplog.at_level(logging.INFO):
        names = name_clusters(TEXTS * 4, words, tiny_weights, asked(options), embedder_options())
    assert [(name.name, name.source) for name in names] == [
        ("Bus stops", "model"), ("bus · card", "words"), ("Identity verification", "model"), ("cluster 3", "words")
    ]  # fmt: skip
    assert "name 2 of 4 clusters; 0 were no names, and 2 had none of their cluster's distinctive words" in caplog.text


def test_two_clusters_with_the_same_proposal_are_told_apart_by_a_word_that_only_one_has(options, tiny_weights, embedder_options, answering):
    answering("Card fees", "card fees", "Fees card")
    words = [["fee", "card"], ["fee", "card", "transfer", "cash"], ["card", "fee", "transfer"]]
    names = name_clusters(TEXTS * 3, words, tiny_weights, asked(options), embedder_options())
    assert [name.name for name in names] == ["Card fees", "card fees (cash)", "Fees card (transfer)"]


def test_a_model_without_chat_template_is_not_asked(options, tiny_weights, embedder_options, tmp_path, caplog):
    folder = tmp_path / "plain"
    shutil.copytree(tiny_weights.base, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    weights = dataclasses.replace(tiny_weights, base=folder)
    with caplog.at_level(logging.INFO):
        (name,) = name_clusters(TEXTS, [["bus"]], weights, asked(options), embedder_options())
    assert (name.name, name.source) == ("bus", "words")
    assert "has no chat template" in caplog.text


def test_a_model_without_vocabulary_head_is_not_asked(options, tiny_weights, monkeypatch):
    monkeypatch.setattr(naming, "has_vocabulary_head", lambda _: False)
    assert "has no vocabulary head" in naming.unfit(tiny_weights, asked(options))
    monkeypatch.undo()
    assert naming.unfit(tiny_weights, asked(options)) == ""


def test_the_model_is_asked_once_a_cluster_and_answers_the_same_again(options, tiny_weights, embedder_options):
    texts = [["the bus is late", "bus"], ["water is cold"], ["word " * 3000]]
    options = asked(options, text_characters=15_000)
    answers = model_answers(texts, tiny_weights, options, embedder_options())
    assert len(answers) == 3
    assert all(answers[:2])
    assert answers[2] == ("", False)  # not even one text fits the model's window
    assert model_answers(texts, tiny_weights, options, embedder_options()) == answers


def test_a_server_is_asked_instead_of_a_small_model(options, chat, tiny_weights, embedder_options):
    chat.say = lambda text, attempt: (200, answer("Late bus stops" if "bus" in text else "Lorries"))
    server = ServerOptions(url=chat.url, model="large", concurrency=2)
    texts = [["the bus is late"], ["water is cold"], []]
    given = options.model_copy(update={"server": server})
    names = name_clusters(texts, [["bus"], ["water"], ["word"]], tiny_weights, given, embedder_options(), key=KEY)
    assert [(name.name, name.source) for name in names] == [("Late bus stops", "model"), ("water", "words"), ("word", "words")]
    assert len(chat.bodies) == 2
    assert chat.bodies[0].items() >= {"model": "large", "temperature": 0.0, "max_tokens": 20}.items()
    assert {headers["Authorization"] for headers in chat.headers} == {f"Bearer {KEY}"}


def test_a_server_that_fails_is_named_with_its_setting(options, chat, tiny_weights, embedder_options):
    chat.say = lambda text, attempt: (401, {"error": "no"})
    given = options.model_copy(update={"server": ServerOptions(url=chat.url, model="large")})
    with pytest.raises(ChatServerError, match=r"requires a key \(401.*chat_server: {api_key: \.\.\.}"):
        name_clusters(TEXTS, [["bus"]], tiny_weights, given, embedder_options())
    given = options.model_copy(update={"server": ServerOptions(url="http://127.0.0.1:9/v1", model="large", retries=0)})
    with pytest.raises(ChatServerError, match=r"correct text_clustering\.naming\.server\.url"):
        name_clusters(TEXTS, [["bus"]], tiny_weights, given, embedder_options())
