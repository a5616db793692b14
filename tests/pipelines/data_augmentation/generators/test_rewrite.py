from __future__ import annotations

import dataclasses
import shutil
import time

import pytest

from chat_fixtures import KEY, answer
from embedding_adaptation.datasets.chat_server import ChatServerKey
from embedding_adaptation.pipelines.data_augmentation.generators import rewrite
from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, GenerationError, Request
from embedding_adaptation.pipelines.data_augmentation.options import RewriteOptions

REQUESTS = [Request.of(str(n), "bus " * (n + 1) + "in the street", 0, ("short", "simple")[n % 2]) for n in range(9)]


def options(**changes):
    styles = {
        "short": {"instruction": "short {text}", "examples": [{"text": "please help", "rewrite": "help"}]},
        "simple": {"instruction": "simple {text}"},
    }
    values = {"system_prompt": "rewrite", "styles": styles, "temperature": 0.6, "max_new_tokens": 6, "batch_size": 4}
    return RewriteOptions.model_validate(values | changes)


@pytest.fixture
def context(tiny_weights, embedder_options):
    return Context(0, tiny_weights, embedder_options(), None, progress=False)


def made(requests, chosen, context):
    return {candidate.key: candidate for candidate in rewrite.generate(requests, chosen, context)}


def test_every_request_is_answered_the_same_whatever_the_batch(context):
    together = made(REQUESTS, options(), context)
    assert set(together) == {request.key for request in REQUESTS}
    assert together == made(REQUESTS, options(batch_size=1), context) == made(REQUESTS[::-1], options(batch_size=9), context)
    assert made(REQUESTS[3:5], options(), context) == {request.key: together[request.key] for request in REQUESTS[3:5]}
    assert len({candidate.generated_text for candidate in together.values()}) > 5


def test_seed_and_temperature_change_answers(context):
    base = made(REQUESTS, options(), context)
    assert base != made(REQUESTS, options(), dataclasses.replace(context, seed=1))
    assert base != made(REQUESTS, options(temperature=1.5), context)
    greedy = options(temperature=0.0)
    assert made(REQUESTS, greedy, context) == made(REQUESTS, greedy, dataclasses.replace(context, seed=1))


def test_windows_change_nothing(context, monkeypatch):
    base = made(REQUESTS, options(), context)
    monkeypatch.setattr(rewrite, "_WINDOW", 2)
    assert made(REQUESTS, options(), context) == base
    assert made([], options(), context) == {}


def test_a_conversation_shows_the_examples_first():
    turns = rewrite.conversation(REQUESTS[0], options())
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[1]["content"] == "short please help"
    assert turns[-1]["content"] == "short bus in the street"


def test_a_text_beyond_the_window_is_cut_and_the_pair_shows_it(context):
    long = Request.of("1", "water house street " * 1500, 0, "simple")
    (candidate,) = rewrite.generate([long], options(), context)
    assert 10 < len(candidate.source_text.split()) < 4500
    assert long.source_text.startswith(candidate.source_text)
    huge = options(styles={"simple": {"instruction": "please " * 3000 + "{text}"}})
    with pytest.raises(GenerationError, match="style 'simple' and its examples leave no room"):
        list(rewrite.generate([long], huge, context))


def test_a_model_without_chat_template_is_refused(context, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(context.base_model.base, folder)
    rewrite.check(options(), context)
    (folder / "chat_template.jinja").unlink()
    other = dataclasses.replace(context.base_model, base=folder)
    for attempt in (
        lambda: rewrite.check(options(), dataclasses.replace(context, base_model=other)),
        lambda: list(rewrite.generate(REQUESTS, options(), dataclasses.replace(context, base_model=other))),
    ):
        with pytest.raises(GenerationError, match=r"has no chat template.*choose its instruction-tuned version"):
            attempt()
    rewrite.check(options(server={"url": "http://localhost:1/v1", "model": "m"}), dataclasses.replace(context, base_model=other))


@pytest.fixture
def asking(chat):
    """Rewrite so many texts with the server; candidates by text, and the error at the end."""

    def ask(count, seed=0, key=KEY):
        server = {"url": chat.url, "model": "small", "concurrency": 4, "timeout": 5.0, "retries": 0}
        made = options(styles={"s": {"instruction": "{text}"}}, server=server)
        requests = (Request.of(str(number), f"text {number}", 0, "s") for number in range(count))
        found = {}
        try:
            for one in rewrite.generate(requests, made, Context(seed, None, None, None, server_key=ChatServerKey(key), progress=False)):
                found[one.source_id] = one
        except GenerationError as error:
            return found, str(error)
        return found, ""

    return ask


def test_rewriting_takes_the_servers_answers(chat, asking):
    found, error = asking(5)
    assert not error
    assert {name: (one.generated_text, one.style, one.finished) for name, one in found.items()} == {
        str(number): (f"re: text {number}", "s", True) for number in range(5)
    }
    assert [message["role"] for message in chat.bodies[0]["messages"]] == ["system", "user"]
    assert {headers["Authorization"] for headers in chat.headers} == {f"Bearer {KEY}"}


def test_a_seed_belongs_to_the_request(chat, asking):
    def seeds(count, seed):
        chat.bodies.clear()
        asking(count, seed)
        return {body["messages"][-1]["content"]: body["seed"] for body in chat.bodies}

    many = seeds(9, 0)
    assert all(0 <= seed < 2**31 for seed in many.values())
    assert len(set(many.values())) == 9
    assert seeds(3, 0).items() < many.items()
    assert seeds(3, 1)["text 0"] != many["text 0"]


def test_what_a_server_answered_before_it_failed_is_kept(chat, asking):
    def say(text, attempt):
        if int(text.split()[1]) < 6:
            return 200, answer(text)
        time.sleep(0.5)  # so that no answer is under way when the server fails: it would be lost with it
        return 503, {"error": "out of order"}

    chat.say = say
    found, error = asking(100)
    assert len(found) == 6
    assert error.endswith(". 6 answers of this run have been kept; run the same command again to continue from there")


def test_a_refused_key_names_the_place_of_the_key_and_hides_it(chat, asking):
    chat.say = lambda text, attempt: (401, {"error": KEY})
    found, error = asking(3)
    assert not found
    assert "chat_server: {api_key: ...}" in error
    assert "0 answers of this run" in error
    assert KEY not in error
