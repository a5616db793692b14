"""What every request passes before its body is parsed: the clock, the API key and the limit on bytes."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from embedding_adaptation.serving.failures import log_failure
from embedding_adaptation.serving.schemas import RequestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from embedding_adaptation.serving.metrics import Metrics

# For probes and Prometheus, as in text-embeddings-inference; they tell nothing about texts.
OPEN_PATHS = frozenset({"/health", "/metrics"})
_DIGITS = 18


class Guard:
    """ASGI middleware.

    Args:
        app: The application behind it.
        key: The API key that requests must have; ``None`` asks for none.
        max_bytes: Longest body.
        metrics: Where requests are counted.
        paths: The application's paths; all others are counted as one.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, max_bytes: int, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._max_bytes, self._metrics, self._paths = app, max_bytes, metrics, paths
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check_key(scope)
            body = await self._body(scope, receive)
            if body is not None:  # None: the client has gone
                await _while_connected(self._app(scope, _replayed(body), counted), receive)
        except RequestError as error:
            await error.response(scope["path"])(scope, receive, counted)
        except Exception as error:  # noqa: BLE001  the server would log its message
            log_failure(error, f"a request to {path}")
            if not status:
                failed = RequestError(500, f"the server failed ({type(error).__name__}); its log says where", code="server_failed")
                await failed.response(scope["path"])(scope, receive, counted)
        finally:
            self._metrics.requests.labels(path, status or "disconnected").inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)

    def _check_key(self, scope: Scope) -> None:
        if self._key is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._key):
            msg = "the API key is missing or wrong; send it in the header: Authorization: Bearer KEY"
            raise RequestError(401, msg, code="invalid_api_key")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and (len(declared) > _DIGITS or int(declared) > self._max_bytes):
            raise self._too_large()
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> RequestError:
        msg = f"the request's body has more than {self._max_bytes:,} bytes; send fewer texts at once"
        return RequestError(413, msg, code="request_too_large")


def _replayed(body: bytes) -> Receive:
    """A body that has been read already; whoever waits for more, waits for as long as the client is there."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # ended from outside, see _while_connected
        return {"type": "http.disconnect"}

    return replay


async def _while_connected(answer: Awaitable[None], receive: Receive) -> None:
    """Answer a request, or give it up when its client has gone: what it waits for in the queue is then not embedded."""

    async def client_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(client_gone())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
    finally:
        leaving.cancel()
        answering.cancel()
