"""Have a server answer conversations through OpenAI's chat protocol.

Reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from embedding_adaptation.pipelines.data_augmentation.generators.request import Context, GenerationError, Request
from embedding_adaptation.texts.cells import SINGLE_SURROGATE

if TYPE_CHECKING:
    import openai

    from embedding_adaptation.pipelines.data_augmentation.options import RewriteOptions, ServerOptions

logger = logging.getLogger(__name__)

_SETTING = "data_augmentation.generators.rewrite.server"
_CREDENTIALS = "chat_server: {api_key: ...} in conf/local/credentials.yml"
_SHOWN = 100
# Seconds before a request with an unusable answer is retried; the client has its own delays for everything else.
_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
# This many consecutive requests without a usable answer are blamed on the server, before and after its first usable answer.
_AT_FIRST, _LATER = 3, 20

_UNKNOWN_KEY = frozenset({401, 403})
_NOT_FOUND = 404
_TOO_MANY = 429
# Statuses caused by a single request: too long, an unknown setting, or a text that makes the server fail.
_THIS_REQUEST = frozenset({400, 413, 422, 500})

_Task = tuple[Request, list[dict[str, str]]]


def answers(
    conversations: Iterable[tuple[Request, list[dict[str, str]]]], options: RewriteOptions, context: Context
) -> Iterator[tuple[Request, str, bool]]:
    """Send several requests to a server at once.

    A request that fails or gets no usable answer is retried ``retries`` times, after increasing delays. If it still fails while the server
    answers others, it gets an empty answer. Redirects are not followed, so key and texts go only to the configured address.

    Args:
        conversations: Requests and their messages; at most ``2 * concurrency`` are read ahead of the answers.
        options: Server and sampling.
        context: Key and seed. Each request is sent a seed of its own.

    Yields:
        Request, answer, and whether the answer is complete, in the order in which they finish.

    Raises:
        GenerationError: If the server cannot be used; the message says why and what to do. Answers received before are yielded first.
    """
    if options.server is None:
        msg = f"no server is configured in {_SETTING}; set its url and model"
        raise GenerationError(msg)
    server = _Server(options, options.server, context)
    stream = iter(conversations)
    ahead = 2 * options.server.concurrency
    doubtful: list[_Outcome] = []
    failure: Exception | None = None
    kept = pending = 0
    with _Workers(server, options.server.concurrency) as workers:
        while failure is None:
            for task in itertools.islice(stream, ahead - pending):
                workers.submit(task)
                pending += 1
            if not pending:
                break
            outcome = workers.wait()
            pending -= 1
            if outcome.answered:
                for settled in [*doubtful, outcome]:
                    kept += 1
                    yield settled.result()
                doubtful.clear()
            else:
                doubtful.append(outcome)
                failure = outcome.failure or server.unusable(doubtful, _LATER if kept else _AT_FIRST)
        for outcome in workers.finished():
            if outcome.answered:
                kept += 1
                yield outcome.result()
    failure = failure or server.unusable(doubtful, _AT_FIRST if kept else 1)
    if isinstance(failure, GenerationError):
        msg = f"{failure}. {kept} answers of this run have been kept; run the same command again to continue from there"
        raise GenerationError(msg)
    if failure is not None:
        raise failure
    yield from (outcome.result() for outcome in doubtful)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of a request: an answer, a doubt (nothing usable, perhaps because of the request itself), or a server failure."""

    request: Request
    text: str = ""
    finished: bool = False
    doubt: str = ""
    failure: Exception | None = None

    @property
    def answered(self) -> bool:
        return not self.doubt and self.failure is None

    def result(self) -> tuple[Request, str, bool]:
        if self.doubt:
            logger.warning("text %s is left without an answer: the server answers others, but sent %s", self.request.source_id, self.doubt)
        return self.request, self.text, self.finished


class _Server:
    """One server, model and sampling configuration; thread-safe."""

    def __init__(self, options: RewriteOptions, server: ServerOptions, context: Context) -> None:
        import openai

        self.stopped = threading.Event()
        self._options = server
        self._seed = context.seed
        self._key = context.server_key.value if context.server_key else None
        self._sampling: dict[str, Any] = {
            "model": server.model,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "max_tokens": options.max_new_tokens,
        }
        try:
            self._client = openai.OpenAI(
                api_key=self._key or "none",  # the client requires one
                base_url=server.url,
                timeout=server.timeout,
                max_retries=server.retries,
                http_client=openai.DefaultHttpxClient(
                    timeout=server.timeout, follow_redirects=False, event_hooks={"request": [self._check_wanted]}
                ),
            )
        except Exception:  # noqa: BLE001  the error for an invalid URL depends on the client's HTTP library, which has changed
            msg = f"{_without_password(server.url)!r} is not a valid URL; correct {_SETTING}.url"
            raise GenerationError(msg) from None
        self._address = _without_password(str(self._client.base_url))

    def ask(self, task: _Task) -> _Outcome:
        """Send one request, with retries."""
        import openai

        request, messages = task
        seed = request.random(self._seed).getrandbits(31)
        left = self._options.retries
        for attempt in itertools.count():
            # All kinds of failure share the number of retries of the request.
            client = self._client if attempt == 0 else self._client.with_options(max_retries=left)
            try:
                raw = client.chat.completions.with_raw_response.create(messages=messages, seed=seed, **self._sampling)  # type: ignore[arg-type]
            except openai.APIStatusError as error:
                return self._refused(request, error)
            except openai.APITimeoutError:
                reason = f"did not answer within {self._options.timeout:g} seconds; raise {_SETTING}.timeout or lower its concurrency"
                return self._failed(request, reason)
            except openai.APIConnectionError as error:
                reason = f"cannot be reached ({self._shown(str(error.__cause__))}); start it, or correct {_SETTING}.url"
                return self._failed(request, reason)
            left -= raw.retries_taken
            text, finished, doubt = _read(raw.http_response.text)
            if not doubt:
                return _Outcome(request, text, finished)
            if left <= 0 or self.stopped.wait(min(_PAUSE * 2.0**attempt, _LONGEST_PAUSE)):
                return _Outcome(request, doubt=f"{doubt}: {self._shown(raw.http_response.text)}")
            left -= 1
        raise AssertionError

    def unusable(self, doubtful: list[_Outcome], limit: int) -> GenerationError | None:
        """An error if so many consecutive requests got no usable answer that the server must be at fault."""
        if len(doubtful) < limit:
            return None
        msg = (
            f"the server {self._address} sent no usable answer {len(doubtful)} times in a row; the last was {doubtful[-1].doubt} - check "
            f"that {_SETTING}.url is that of a chat server (up to and including /v1) and that the model accepts these texts and settings"
        )
        return GenerationError(msg)

    def close(self) -> None:
        """Close all connections, none of which may be in use."""
        self._client.close()

    def _check_wanted(self, _: object) -> None:
        """Stop the client's retries once nobody waits for an answer."""
        import openai

        if self.stopped.is_set():
            msg = "stopped"
            raise openai.OpenAIError(msg)

    def _refused(self, request: Request, error: openai.APIStatusError) -> _Outcome:
        status = error.status_code
        details = f"{status}: {self._shown(error.response.text)}"
        if status in _THIS_REQUEST:
            return _Outcome(request, doubt=details)
        if status in _UNKNOWN_KEY:
            problem = "rejects the key" if self._key else "requires a key"
            reason = f"{problem} ({details}); set {_CREDENTIALS}"
        elif status == _NOT_FOUND:
            reason = f"has no model {self._options.model!r} or no such address ({details}); correct {_SETTING}.url (up to /v1) and model"
        elif error.response.is_redirect:
            target = _without_password(error.response.headers.get("location", "")).partition("?")[0]
            reason = f"redirects to {self._shown(target)!r}, where the key is not sent; correct {_SETTING}.url"
        elif status == _TOO_MANY:
            reason = f"accepts no more requests for now ({details}); wait, or lower {_SETTING}.concurrency"
        else:
            reason = f"fails ({details}); see its own log"
        return self._failed(request, reason)

    def _failed(self, request: Request, reason: str) -> _Outcome:
        return _Outcome(request, failure=GenerationError(f"the server {self._address} {reason}"))

    def _shown(self, text: str) -> str:
        """The beginning of a server's message, without the key, which some servers repeat."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text[: 10 * _SHOWN].split())[:_SHOWN]


class _Workers:
    """Threads that send requests. They do not keep the process alive, so that it can be interrupted whatever the server does."""

    def __init__(self, server: _Server, count: int) -> None:
        self._server = server
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._outcomes: SimpleQueue[_Outcome] = SimpleQueue()
        self._lock = threading.Lock()
        self._working = count
        self._threads = [threading.Thread(target=self._work, name=f"chat-server-{n}", daemon=True) for n in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        while not self._tasks.empty():
            with suppress(Empty):
                self._tasks.get_nowait()
        self._server.stopped.set()
        for _thread in self._threads:
            self._tasks.put(None)

    def submit(self, task: _Task) -> None:
        """Queue a request."""
        self._tasks.put(task)

    def wait(self) -> _Outcome:
        """Wait for the next outcome."""
        return self._outcomes.get()

    def finished(self) -> Iterator[_Outcome]:
        """The outcomes that have already arrived."""
        while not self._outcomes.empty():
            yield self._outcomes.get()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                outcome = self._server.ask(task)
            except Exception as error:  # noqa: BLE001  raised again in the waiting thread
                outcome = _Outcome(task[0], failure=error)
            self._outcomes.put(outcome)
        with self._lock:
            self._working -= 1
            last = not self._working
        # The last worker closes the connections: closing one while a thread reads from it would leave that thread hanging.
        if last:
            self._server.close()


def _read(body: str) -> tuple[str, bool, str]:
    """The answer, whether it is complete, and what is wrong with the response."""
    try:
        response = json.loads(body)
    except ValueError:
        return "", False, "no JSON"
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return "", False, "JSON without choices"
    message, reason = choices[0].get("message"), choices[0].get("finish_reason")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        return "", False, f"JSON without a text (finish_reason {reason!r})"
    # An answer cut within an emoji may end in an unpaired surrogate, which no file can hold.
    return SINGLE_SURROGATE.sub("\ufffd", content).strip(), reason == "stop", ""


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
