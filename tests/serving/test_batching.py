"""The queue and its thread, with an encoder that the tests hold."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from embedding_adaptation.serving.batching import Batcher, QueueFullError, StoppedError
from embedding_adaptation.serving.failures import TextTooLongError
from embedding_adaptation.serving.options import ServingOptions


class Encoder:
    """Vectors are lengths; a batch waits for ``gate``, and ``batches`` records what came."""

    def __init__(self) -> None:
        self.gate, self.began, self.batches = threading.Event(), threading.Event(), []
        self.gate.set()

    def count_tokens(self, texts, *, truncate):
        if not truncate and max(map(len, texts)) > 9:
            raise TextTooLongError("too long")
        if "uncountable" in texts:
            raise RuntimeError("uncountable")
        return [len(text) for text in texts]

    def encode(self, texts):
        self.batches.append(list(texts))
        self.began.set()
        assert self.gate.wait(10)
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[len(text)] for text in texts], np.float32)

    def hold(self) -> None:
        self.gate.clear()
        self.began.clear()


@pytest.fixture
def encoder():
    return Encoder()


@pytest.fixture
def batcher(encoder):
    made = []

    def make(**options):
        made.append(Batcher(encoder, ServingOptions(**{"wait_ms": 0, **options})))
        return made[-1]

    yield make
    encoder.gate.set()
    for one in made:
        one.close()


def occupied(encoder, batcher):
    """A request whose batch is being computed, so that all others wait."""
    encoder.hold()
    first = batcher.submit(["first"])
    assert encoder.began.wait(10)
    return first


def lengths(future) -> list[float]:
    return future.result(10).vectors[:, 0].tolist()


def test_what_waits_is_embedded_together_within_the_bounds(encoder, batcher):
    queue = batcher(batch_texts=4, batch_tokens=10)
    first = occupied(encoder, queue)
    futures = [queue.submit(texts) for texts in (["a", "bb"], ["ccc"], ["dddd"], ["e"], ["f" * 20], ["g"] * 5)]
    assert queue.waiting == 11
    encoder.gate.set()
    assert [lengths(future) for future in futures] == [[1, 2], [3], [4], [1], [20], [1] * 5]
    assert encoder.batches == [["first"], ["a", "bb", "ccc", "dddd"], ["e"], ["f" * 20], ["g"] * 4, ["g"]]
    assert [first.result().tokens, *(future.result().tokens for future in futures)] == [5, 3, 3, 4, 1, 20, 5]
    assert queue.waiting == 0


def test_an_idle_thread_waits_a_moment_for_others(encoder, batcher):
    queue = batcher(batch_texts=3, wait_ms=1000)
    for future in [queue.submit([text]) for text in ("a", "b", "c")]:
        future.result(0.9)  # a full batch is not kept waiting
    assert encoder.batches == [["a", "b", "c"]]


def test_beyond_the_bound_requests_are_refused_and_a_request_alone_is_not(encoder, batcher):
    queue = batcher(queue_texts=3)
    assert lengths(queue.submit(["a"] * 5)) == [1] * 5
    occupied(encoder, queue)
    kept = queue.submit(["a", "b"])
    with pytest.raises(QueueFullError, match=r"the texts that wait \(2\) and these \(2\) would be more than 3"):
        queue.submit(["c", "d"])
    encoder.gate.set()
    assert lengths(kept) == [1, 1]
    assert lengths(queue.submit(["c", "d"])) == [1, 1]


def test_only_the_request_at_fault_fails(encoder, batcher):
    queue = batcher(batch_texts=4)
    occupied(encoder, queue)
    good, bad, long, other = (queue.submit(texts) for texts in (["a"], ["bad", *["c"] * 9], ["d"], ["e"]))
    encoder.gate.set()
    with pytest.raises(ValueError, match="bad"):
        bad.result(10)
    assert [lengths(future) for future in (good, long, other)] == [[1]] * 3
    assert queue.waiting == 0
    with pytest.raises(ValueError, match="too long"):
        queue.submit(["f" * 20], truncate=False).result(10)
    assert queue.waiting == 0


def test_a_failure_of_ours_is_logged_without_the_text_and_one_of_the_client_is_not(batcher, caplog):
    queue = batcher()
    with pytest.raises(TextTooLongError):
        queue.submit(["f" * 20], truncate=False).result(10)
    assert not caplog.records
    with pytest.raises(RuntimeError):
        queue.submit(["uncountable"]).result(10)
    assert "RuntimeError during the counting of tokens of a request of 1 texts" in caplog.text


def test_what_was_given_up_is_not_embedded(encoder, batcher):
    queue = batcher()
    occupied(encoder, queue)
    given_up, kept = queue.submit(["given up"]), queue.submit(["kept"])
    assert given_up.cancel()
    encoder.gate.set()
    assert lengths(kept) == [4]
    assert encoder.batches == [["first"], ["kept"]]
    assert queue.waiting == 0


def test_closing_finishes_what_was_accepted_and_refuses_the_rest(encoder, batcher):
    queue = batcher(batch_texts=2)
    first = occupied(encoder, queue)
    others = [queue.submit(["a"] * 5), queue.submit(["b"])]
    closing = threading.Thread(target=queue.close)
    closing.start()
    while queue.is_running:
        pass
    with pytest.raises(StoppedError):
        queue.submit(["c"])
    encoder.gate.set()
    closing.join(10)
    assert not closing.is_alive()
    assert [lengths(first), *map(lengths, others)] == [[5], [1] * 5, [1]]
