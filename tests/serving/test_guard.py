from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi")
from embedding_adaptation.serving.guard import Guard
from embedding_adaptation.serving.metrics import Metrics

SCOPE = {"type": "http", "path": "/embed", "method": "POST", "headers": []}


def ask(app, messages):
    """Send messages to a guarded application, one after the other, and return what it sent and what was given up."""
    sent, rest = [], iter(messages)

    async def receive():
        message = next(rest, None)
        if message is None:
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        return message

    async def send(message):
        sent.append(message)

    async def call():
        guard = Guard(app, key=None, max_bytes=100, metrics=Metrics(), paths={"/embed"})
        await asyncio.wait_for(guard(SCOPE, receive, send), 5)

    asyncio.run(call())
    return sent


BODY = {"type": "http.request", "body": b"{}", "more_body": False}
GONE = {"type": "http.disconnect"}


def test_what_a_client_no_longer_waits_for_is_given_up():
    given_up = []

    async def slow(scope, receive, send):
        assert (await receive())["body"] == b"{}"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.append(True)
            raise

    assert ask(slow, [BODY, GONE]) == []
    assert given_up == [True]


def test_an_answer_that_is_ready_is_sent_and_its_failure_is_answered():
    async def quick(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def broken(scope, receive, send):
        raise RuntimeError("secret")

    assert ask(quick, [BODY]) == [{"type": "http.response.start", "status": 200}]
    assert ask(broken, [BODY])[0]["status"] == 500
