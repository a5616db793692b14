"""Answers of a chat server, against a local one that speaks the protocol."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from types import SimpleNamespace

import pytest

from chat_fixtures import KEY, Chat, answer
from embedding_adaptation import chat_server as module
from embedding_adaptation.chat_server import ChatServerError, Conversation
from embedding_adaptation.embedder.token_choice import Sampling
from embedding_adaptation.options import ServerOptions

SETTING = "pipeline.server"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.01)


def options(chat, **changes):
    server = {"url": chat.url, "model": "small", "concurrency": 4, "timeout": 5.0, "retries": 2} | changes
    return ServerOptions.model_validate(server)


def answers(conversations, server, key=KEY):
    return module.answers(conversations, server, Sampling(0.5, 0.8, 7), setting=SETTING, key=key)


def asked(count=8):
    for number in itertools.islice(itertools.count(), count):
        yield Conversation(str(number), f"text {number}", [{"role": "user", "content": f"text {number}"}], 100 + number)


def collect(stream):
    """What came, and the error at the end."""
    found = []
    try:
        found.extend(stream)
    except ChatServerError as error:
        return found, str(error)
    return found, None


def test_several_requests_are_under_way_at_once_and_all_are_answered(chat):
    def say(text, attempt):
        time.sleep(0.03)
        return 200, answer(f" re: {text}\n", "length" if text == "text 3" else "stop")

    chat.say = say
    found, error = collect(answers(asked(20), options(chat)))
    assert error is None
    assert sorted(found) == sorted((str(n), f"re: text {n}", n != 3) for n in range(20))
    assert 1 < chat.most_under_way <= 4
    assert chat.bodies[0].items() >= {"model": "small", "temperature": 0.5, "top_p": 0.8, "max_tokens": 7}.items()
    assert {headers["Authorization"] for headers in chat.headers} == {f"Bearer {KEY}"}


def test_answers_come_as_they_are_finished(chat):
    chat.say = lambda text, attempt: (time.sleep(0.3 if text == "text 0" else 0), (200, answer(text)))[1]
    found, _ = collect(answers(asked(4), options(chat)))
    assert found[-1][0] == "0"


def test_each_conversation_is_sent_its_seed(chat):
    collect(answers(asked(9), options(chat)))
    assert {body["messages"][0]["content"]: body["seed"] for body in chat.bodies} == {f"text {n}": 100 + n for n in range(9)}


def test_no_more_is_taken_than_is_needed(chat):
    taken = 0

    def endless():
        nonlocal taken
        for pair in asked(10**9):
            taken += 1
            yield pair

    stream = answers(endless(), options(chat, concurrency=2))
    assert len(list(itertools.islice(stream, 5))) == 5
    assert taken <= 5 + 2 * 2
    stream.close()
    time.sleep(0.05)
    assert len(chat.bodies) <= taken


def test_a_server_without_key_is_sent_a_placeholder(chat, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    assert collect(answers(asked(1), options(chat), None))[1] is None
    assert {headers["Authorization"] for headers in chat.headers} == {"Bearer none"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_fails_once_is_tried_again(chat, status):
    chat.say = lambda text, attempt: (status, {"error": "busy"}) if attempt == 1 else (200, answer(text))
    found, error = collect(answers(asked(5), options(chat)))
    assert error is None
    assert len(found) == 5
    assert set(chat.tries.values()) == {2}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "sent no usable answer 3 times in a row; the last was 500"),
        (503, "fails (503: "),
        (429, "accepts no more requests for now (429: "),
    ],
)
def test_what_fails_always_keeps_what_was_answered_before(chat, status, message):
    chat.say = lambda text, attempt: (200, answer(text)) if int(text.split()[1]) < 6 else (status, {"error": "out of order"})
    found, error = collect(answers(asked(1000), options(chat)))
    if status == 500:
        message = message.replace("3 times", "20 times")
    assert len(found) == 6
    assert message in error
    assert "out of order" in error
    assert chat.tries["text 6"] == 3
    chat.say = lambda text, attempt: (status, {"error": "out of order"})
    assert not collect(answers(asked(), options(chat)))[0]


def test_answers_that_are_there_when_another_request_fails_come_first(chat, monkeypatch):
    together = threading.Barrier(4)

    def say(text, attempt):
        together.wait(timeout=5)
        return (401, {"error": "no"}) if text == "text 0" else (200, answer(text))

    chat.say = say
    failed = threading.Event()
    monkeypatch.setattr(module._Workers, "wait", lambda self, wait=module._Workers.wait: (failed.wait(5), time.sleep(0.1), wait(self))[2])
    monkeypatch.setattr(module._Server, "_failed", lambda self, *a, made=module._Server._failed: (failed.set(), made(self, *a))[1])
    found, error = collect(answers(asked(4), options(chat)))
    assert "rejects the key" in error
    assert sorted(row[0] for row in found) == ["1", "2", "3"]


def test_a_server_that_takes_too_long_is_named_with_its_timeout(chat):
    chat.say = lambda text, attempt: (time.sleep(0.4), (200, answer(text)))[1]
    _, error = collect(answers(asked(1), options(chat, timeout=0.05, retries=1)))
    assert "did not answer within 0.05 seconds; raise pipeline.server.timeout" in error
    assert chat.tries["text 0"] == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_at_once_and_is_not_shown(chat, status):
    chat.say = lambda text, attempt: (status, {"error": f"wrong key {KEY}"})
    _, error = collect(answers(asked(100), options(chat)))
    assert "rejects the key" in error
    assert "chat_server: {api_key: ...} in conf/local/credentials.yml" in error
    assert "wrong key ***" in error
    assert KEY not in error
    assert len(chat.bodies) <= 8
    assert set(chat.tries.values()) == {1}
    assert "requires a key" in collect(answers(asked(1), options(chat), None))[1]


@pytest.mark.parametrize("path", ["/v1", "/other"])
def test_an_unknown_model_or_address_is_named(chat, path):
    chat.say = lambda text, attempt: (404, {"error": "model not found"})
    _, error = collect(answers(asked(3), options(chat, url=chat.url.replace("/v1", path))))
    assert f"the server {chat.url.replace('/v1', path)}/ has no model 'small' or no such address" in error
    assert "correct pipeline.server.url (up to /v1) and model" in error


def test_nobody_there(chat):
    chat.server.shutdown()
    chat.server.server_close()
    started = time.perf_counter()
    _, error = collect(answers(asked(), options(chat)))
    assert "Connection refused); start it, or correct pipeline.server.url" in error
    assert time.perf_counter() - started < 2


def test_no_address(chat):
    assert "'http://[::1/v1' is not a valid URL; correct" in collect(answers(asked(), options(chat, url="http://[::1/v1")))[1]


NONSENSE = {
    "html": (200, "<html>" + "log in " * 50),
    "no JSON": (200, "{'a'"),
    "no object": (200, [1]),
    "no choices": (200, {"id": 1}),
    "empty choices": (200, {"choices": []}),
    "null content": (200, answer(None)),
    "no message": (200, {"choices": [{}]}),
    "too long": (400, {"error": "more than 4096 tokens"}),
    "broken": (500, {"error": "that word again"}),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_one_request_without_a_usable_answer_gets_an_empty_one(chat, name, caplog):
    chat.say = lambda text, attempt: NONSENSE[name] if text == "text 2" else (200, answer(text))
    with caplog.at_level(logging.WARNING):
        found, error = collect(answers(asked(), options(chat)))
    assert error is None
    assert len(found) == 8
    assert [row for row in found if not row[1]] == [("2", "", False)]
    assert caplog.text.count("text 2 is left without an answer: the server answers others, but sent") == 1
    assert chat.tries["text 2"] == (1 if name == "too long" else 3)


@pytest.mark.parametrize("name", NONSENSE)
def test_a_server_that_gives_nothing_usable_from_the_start_is_shown(chat, name):
    chat.say = lambda text, attempt: NONSENSE[name]
    for count in (1, 100):
        found, error = collect(answers(asked(count), options(chat, retries=1)))
        assert not found
        assert f"sent no usable answer {min(count, 3)} times in a row" in error
    said = NONSENSE[name][1]
    shown = " ".join((said if isinstance(said, str) else json.dumps(said)).split())[:100]
    assert shown in error
    assert "log in " * 20 not in error


def test_nonsense_once_is_tried_again(chat):
    chat.say = lambda text, attempt: NONSENSE["html"] if attempt == 1 else (200, answer(text))
    found, error = collect(answers(asked(), options(chat)))
    assert error is None
    assert all(text for _, text, _ in found)


def test_tries_of_all_kinds_count_together(chat):
    said = [(503, {}), NONSENSE["html"], (503, {}), NONSENSE["html"], (200, answer("at last"))]
    chat.say = lambda text, attempt: said[attempt - 1]
    assert collect(answers(asked(1), options(chat, retries=4)))[0] == [("0", "at last", True)]
    chat.tries.clear()
    assert "no usable answer" in collect(answers(asked(1), options(chat, retries=3)))[1]
    assert chat.tries["text 0"] == 4


def test_an_empty_answer_is_an_answer(chat):
    chat.say = lambda text, attempt: (200, answer("", "length"))
    assert collect(answers(asked(1), options(chat))) == ([("0", "", False)], None)


def test_half_a_character_at_the_end_of_an_answer_is_replaced(chat):
    chat.say = lambda text, attempt: (200, answer("thanks \ud83d", "length"))
    assert collect(answers(asked(1), options(chat))) == ([("0", "thanks \ufffd", False)], None)


def test_neither_key_nor_texts_go_where_a_redirect_leads(chat):
    other = Chat()
    try:
        chat.location = f"{other.url}/chat/completions?token={KEY}"
        chat.say = lambda text, attempt: (307, "")
        _, error = collect(answers(asked(), options(chat)))
    finally:
        other.server.shutdown()
        other.server.server_close()
    assert not other.bodies
    assert f"redirects to '{other.url}/chat/completions', where the key is not sent; correct" in error
    assert KEY not in error


def test_the_key_is_in_no_log(chat, caplog):
    chat.say = lambda text, attempt: (
        (503, f"{KEY}") if attempt == 1 else (200, f"{KEY} nonsense") if text == "text 1" else (200, answer(text))
    )
    with caplog.at_level(logging.DEBUG):
        found, _ = collect(answers(asked(), options(chat)))
        chat.say = lambda text, attempt: (400, KEY * 9)
        _, error = collect(answers(asked(), options(chat)))
    assert len(found) == 8
    assert "HTTP Response" in caplog.text
    assert KEY not in caplog.text
    assert KEY[:10] not in error


def test_a_mistake_of_the_program_is_not_hidden(chat, monkeypatch):
    monkeypatch.setattr(module, "_read", lambda body: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(answers(asked(), options(chat)))


def test_threads_end_with_the_answers(chat):
    collect(answers(asked(), options(chat)))
    stream = answers(asked(100), options(chat))
    next(stream)
    stream.close()
    deadline = time.monotonic() + 2
    while (left := [t for t in threading.enumerate() if t.name.startswith("chat-server-")]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def test_pauses_grow(chat, monkeypatch):
    paused = []
    monkeypatch.setattr(module, "_PAUSE", 3.0)
    server = module._Server(options(chat, retries=4), Sampling(0.5, 0.8, 7), SETTING, KEY)
    server.stopped = SimpleNamespace(wait=paused.append, is_set=lambda: False)
    chat.say = lambda text, attempt: NONSENSE["html"]
    assert server.ask(next(asked())).doubt
    assert paused == [3.0, 6.0, 8.0, 8.0]
    server.close()


def test_nothing_is_asked_once_nobody_waits(chat, monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.1)
    chat.say = lambda text, attempt: (503, {}) if text == "text 0" else (200, answer(text))
    stream = answers(asked(), options(chat, retries=50))
    next(stream)
    stream.close()
    time.sleep(0.02)
    tries = chat.tries["text 0"]
    time.sleep(0.25)
    assert chat.tries["text 0"] == tries
