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
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from embedding_adaptation.texts.cells import SINGLE_SURROGATE

if TYPE_CHECKING:
    import openai

    from embedding_adaptation.embedder.token_choice import Sampling
    from embedding_adaptation.options import ServerOptions

logger = logging.getLogger(__name__)

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


_Subject = TypeVar("_Subject")


class ChatServerError(RuntimeError):
    """A server that cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Conversation(Generic[_Subject]):
    """What is asked of a server.

    Attributes:
        subject: What it is about; comes back with the answer.
        name: What messages call the subject, such as ``text 12``.
        messages: The messages, with roles and contents.
        seed: Sent along, for servers that heed it.
    """

    subject: _Subject
    name: str
    messages: list[dict[str, str]]
    seed: int


def answers(
    conversations: Iterable[Conversation[_Subject]], server: ServerOptions, sampling: Sampling, *, setting: str, key: str | None = None
) -> Iterator[tuple[_Subject, str, bool]]:
    """Send several conversations to a server at once.

    A request that fails or gets no usable answer is retried ``retries`` times, after increasing delays. If it still fails while the server
    answers others, it gets an empty answer. Redirects are not followed, so key and texts go only to the configured address.

    Args:
        conversations: At most ``2 * concurrency`` are read ahead of the answers.
        server: The server.
        sampling: How it is to choose tokens.
        setting: Name of the option that holds the server, for messages.
        key: The server's key, if it needs one.

    Yields:
        Subject, answer, and whether the answer is complete, in the order in which they finish.

    Raises:
        ChatServerError: If the server cannot be used; the message says why and what to do. Answers received before are yielded first.
    """
    asked = _Server(server, sampling, setting, key)
    stream = iter(conversations)
    ahead = 2 * server.concurrency
    doubtful: list[_Outcome] = []
    failure: Exception | None = None
    kept = pending = 0
    with _Workers(asked, server.concurrency) as workers:
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
                failure = outcome.failure or asked.unusable(doubtful, _LATER if kept else _AT_FIRST)
        for outcome in workers.finished():
            if outcome.answered:
                kept += 1
                yield outcome.result()
    failure = failure or asked.unusable(doubtful, _AT_FIRST if kept else 1)
    if failure is not None:
        raise failure
    yield from (outcome.result() for outcome in doubtful)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of a request: an answer, a doubt (nothing usable, perhaps because of the request itself), or a server failure."""

    conversation: Conversation[Any]
    text: str = ""
    finished: bool = False
    doubt: str = ""
    failure: Exception | None = None

    @property
    def answered(self) -> bool:
        return not self.doubt and self.failure is None

    def result(self) -> tuple[Any, str, bool]:
        if self.doubt:
            logger.warning("%s is left without an answer: the server answers others, but sent %s", self.conversation.name, self.doubt)
        return self.conversation.subject, self.text, self.finished


class _Server:
    """One server, model and sampling configuration; thread-safe."""

    def __init__(self, server: ServerOptions, sampling: Sampling, setting: str, key: str | None) -> None:
        import openai

        self.stopped = threading.Event()
        self._options = server
        self._setting = setting
        self._key = key
        self._sampling: dict[str, Any] = {
            "model": server.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
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
            msg = f"{_without_password(server.url)!r} is not a valid URL; correct {setting}.url"
            raise ChatServerError(msg) from None
        self._address = _without_password(str(self._client.base_url))

    def ask(self, conversation: Conversation[Any]) -> _Outcome:
        """Send one request, with retries."""
        import openai

        messages, seed = conversation.messages, conversation.seed
        left = self._options.retries
        for attempt in itertools.count():
            # All kinds of failure share the number of retries of the request.
            client = self._client if attempt == 0 else self._client.with_options(max_retries=left)
            try:
                raw = client.chat.completions.with_raw_response.create(messages=messages, seed=seed, **self._sampling)  # type: ignore[arg-type]
            except openai.APIStatusError as error:
                return self._refused(conversation, error)
            except openai.APITimeoutError:
                reason = f"did not answer within {self._options.timeout:g} seconds; raise {self._setting}.timeout or lower its concurrency"
                return self._failed(conversation, reason)
            except openai.APIConnectionError as error:
                reason = f"cannot be reached ({self._shown(str(error.__cause__))}); start it, or correct {self._setting}.url"
                return self._failed(conversation, reason)
            left -= raw.retries_taken
            text, finished, doubt = _read(raw.http_response.text)
            if not doubt:
                return _Outcome(conversation, text, finished)
            if left <= 0 or self.stopped.wait(min(_PAUSE * 2.0**attempt, _LONGEST_PAUSE)):
                return _Outcome(conversation, doubt=f"{doubt}: {self._shown(raw.http_response.text)}")
            left -= 1
        raise AssertionError

    def unusable(self, doubtful: list[_Outcome], limit: int) -> ChatServerError | None:
        """An error if so many consecutive requests got no usable answer that the server must be at fault."""
        if len(doubtful) < limit:
            return None
        msg = (
            f"the server {self._address} sent no usable answer {len(doubtful)} times in a row; the last was {doubtful[-1].doubt} - check "
            f"that {self._setting}.url is that of a chat server (up to and including /v1), and that the model accepts these texts and "
            "settings"
        )
        return ChatServerError(msg)

    def close(self) -> None:
        """Close all connections, none of which may be in use."""
        self._client.close()

    def _check_wanted(self, _: object) -> None:
        """Stop the client's retries once nobody waits for an answer."""
        import openai

        if self.stopped.is_set():
            msg = "stopped"
            raise openai.OpenAIError(msg)

    def _refused(self, conversation: Conversation[Any], error: openai.APIStatusError) -> _Outcome:
        status = error.status_code
        details = f"{status}: {self._shown(error.response.text)}"
        if status in _THIS_REQUEST:
            return _Outcome(conversation, doubt=details)
        if status in _UNKNOWN_KEY:
            problem = "rejects the key" if self._key else "requires a key"
            reason = f"{problem} ({details}); set {_CREDENTIALS}"
        elif status == _NOT_FOUND:
            reason = (
                f"has no model {self._options.model!r} or no such address ({details}); correct {self._setting}.url (up to /v1) and model"
            )
        elif error.response.is_redirect:
            target = _without_password(error.response.headers.get("location", "")).partition("?")[0]
            reason = f"redirects to {self._shown(target)!r}, where the key is not sent; correct {self._setting}.url"
        elif status == _TOO_MANY:
            reason = f"accepts no more requests for now ({details}); wait, or lower {self._setting}.concurrency"
        else:
            reason = f"fails ({details}); see its own log"
        return self._failed(conversation, reason)

    def _failed(self, conversation: Conversation[Any], reason: str) -> _Outcome:
        return _Outcome(conversation, failure=ChatServerError(f"the server {self._address} {reason}"))

    def _shown(self, text: str) -> str:
        """The beginning of a server's message, without the key, which some servers repeat."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join(text[: 10 * _SHOWN].split())[:_SHOWN]


class _Workers:
    """Threads that send requests. They do not keep the process alive, so that it can be interrupted whatever the server does."""

    def __init__(self, server: _Server, count: int) -> None:
        self._server = server
        self._tasks: SimpleQueue[Conversation[Any] | None] = SimpleQueue()
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

    def submit(self, task: Conversation[Any]) -> None:
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
                outcome = _Outcome(task, failure=error)
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
