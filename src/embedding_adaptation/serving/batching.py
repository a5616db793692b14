"""Dynamic batching: one thread embeds whatever waits, whichever requests it belongs to.

While a batch is computed, the texts of new requests gather, so that batches grow with the load and nobody waits for it. The short wait
before a batch matters only if the thread was idle.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embedding_adaptation.serving.failures import TextTooLongError, log_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedding_adaptation.serving.options import ServingOptions


class Encoder(Protocol):
    """What the thread runs."""

    def count_tokens(self, texts: Sequence[str], *, truncate: bool) -> list[int]:
        """Number of tokens that the model reads for each text."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors, ``[N, D]`` float32."""


class QueueFullError(RuntimeError):
    """So much waits already that a request cannot be accepted; the message says how much."""


class StoppedError(RuntimeError):
    """The server is about to stop and accepts nothing more."""


@dataclass(frozen=True)
class Embedded:
    """The vectors of a request, ``[N, D]`` float32, and the number of tokens read for them."""

    vectors: np.ndarray
    tokens: int


@dataclass
class _Job:
    """A request's texts, with their tokens and vectors as far as they are known; ``taken`` counts the texts that went into batches."""

    texts: Sequence[str]
    truncate: bool
    future: Future[Embedded]
    tokens: list[int] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    taken: int = 0


@dataclass(frozen=True)
class _Slice:
    """The part of a request that is in a batch."""

    job: _Job
    texts: Sequence[str]


class Batcher:
    """A queue of requests, and the thread that embeds them in order of arrival.

    Args:
        encoder: The model; only the thread calls it.
        options: Bounds of a batch and of the queue.
        on_batch: Called by the thread with the number of texts and of tokens of each batch.
    """

    def __init__(self, encoder: Encoder, options: ServingOptions, on_batch: Callable[[int, int], None] = lambda *_: None) -> None:
        self._encoder, self._options, self._on_batch = encoder, options, on_batch
        self._arrived = threading.Condition()
        self._new: deque[_Job] = deque()
        self._pending: deque[_Job] = deque()  # of the thread alone
        self._waiting = self._new_texts = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="embedder", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of texts that have been accepted and are in no batch yet."""
        return self._waiting

    @property
    def is_running(self) -> bool:
        """Whether requests are accepted."""
        return self._thread.is_alive() and not self._closed

    def submit(self, texts: Sequence[str], *, truncate: bool = True) -> Future[Embedded]:
        """Accept the texts of a request.

        Args:
            texts: At least one text.
            truncate: Whether a text that is too long is cut; otherwise the encoder's error is the result.

        Raises:
            QueueFullError: If there is no room for them. A request alone is always accepted.
            StoppedError: After :meth:`close`.
        """
        with self._arrived:
            if not self.is_running:
                msg = "the server is stopping; send the request again, to another server or later"
                raise StoppedError(msg)
            if self._waiting and self._waiting + len(texts) > self._options.queue_texts:
                limit = self._options.queue_texts
                msg = f"the texts that wait ({self._waiting}) and these ({len(texts)}) would be more than {limit}; try later"
                raise QueueFullError(msg)
            job = _Job(texts, truncate, Future())
            self._new.append(job)
            self._waiting += len(texts)
            self._new_texts += len(texts)
            self._arrived.notify()
        return job.future

    def close(self) -> None:
        """Accept nothing more, finish what was accepted, and end the thread."""
        with self._arrived:
            self._closed = True
            self._arrived.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            arrived = self._arrivals()
            for job in arrived:
                self._admit(job)
            if batch := self._next_batch():
                self._run(batch)
            elif self._closed and not arrived:
                return

    def _arrivals(self) -> list[_Job]:
        """What has arrived since, after a wait if nothing else is to be done; nothing once the batcher is closed."""
        options = self._options
        with self._arrived:
            if not self._pending:
                self._arrived.wait_for(lambda: self._new or self._closed)
                deadline = time.monotonic() + options.wait_ms / 1000
                while self._new_texts < options.batch_texts and not self._closed and (left := deadline - time.monotonic()) > 0:
                    self._arrived.wait(left)
            arrived = list(self._new)
            self._new.clear()
            self._new_texts = 0
        return arrived

    def _admit(self, job: _Job) -> None:
        """Count the tokens of a request and put it in line, unless it cannot be embedded."""
        try:
            job.tokens = self._encoder.count_tokens(job.texts, truncate=job.truncate)
        except Exception as error:  # noqa: BLE001  the request's answer, not the thread's end
            self._forget(len(job.texts))
            if not isinstance(error, TextTooLongError):  # that is the client's
                log_failure(error, f"the counting of tokens of a request of {len(job.texts)} texts")
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
        else:
            self._pending.append(job)

    def _next_batch(self) -> list[_Slice]:
        """The next texts in line within the bounds, leaving out requests that were given up."""
        batch: list[_Slice] = []
        texts = tokens = 0
        while self._pending:
            job, first = self._pending[0], self._pending[0].taken
            if not job.future.running() and not job.future.set_running_or_notify_cancel():
                self._forget(len(job.texts))
                self._pending.popleft()
                continue
            while job.taken < len(job.texts):
                if texts and (texts == self._options.batch_texts or tokens + job.tokens[job.taken] > self._options.batch_tokens):
                    break
                tokens += job.tokens[job.taken]
                texts += 1
                job.taken += 1
            if job.taken > first:
                batch.append(_Slice(job, job.texts[first : job.taken]))
            if job.taken < len(job.texts):
                break
            self._pending.popleft()
        self._forget(texts)
        if batch:
            self._on_batch(texts, tokens)
        return batch

    def _run(self, batch: list[_Slice]) -> None:
        """Embed a batch. If it fails, its requests are embedded one by one, so that only the one at fault does."""
        try:
            vectors = self._encoder.encode([text for part in batch for text in part.texts])  # [N, D]
        except Exception as error:  # noqa: BLE001  the requests' answer, not the thread's end
            if len(batch) > 1:
                for part in batch:
                    self._run([part])
                return
            self._fail(batch[0].job, error)
            return
        done = 0
        for part in batch:
            part.job.vectors.append(vectors[done : done + len(part.texts)])
            done += len(part.texts)
            if sum(map(len, part.job.vectors)) == len(part.job.texts):
                part.job.future.set_result(Embedded(np.concatenate(part.job.vectors), sum(part.job.tokens)))

    def _fail(self, job: _Job, error: Exception) -> None:
        log_failure(error, f"the embedding of a request of {len(job.texts)} texts")
        if self._pending and self._pending[0] is job:
            self._pending.popleft()
            self._forget(len(job.texts) - job.taken)
        job.future.set_exception(error)

    def _forget(self, texts: int) -> None:
        with self._arrived:
            self._waiting -= texts
