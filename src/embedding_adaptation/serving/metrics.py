"""What the server counts, in Prometheus's format; no metric says anything about a text but its length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("embedding_requests", "Requests answered.", ["path", "status"], registry=self._registry)
        self.seconds = Histogram(
            "embedding_request_seconds",
            "Seconds from arrival to answer.",
            ["path"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.texts = Counter("embedding_texts", "Texts embedded.", registry=self._registry)
        self.tokens = Counter("embedding_tokens", "Tokens read, including templates.", registry=self._registry)
        self.batch = Histogram("embedding_batch_texts", "Texts embedded at once.", registry=self._registry, buckets=_TEXTS)
        self.queue = Gauge("embedding_queue_texts", "Texts that wait.", registry=self._registry)

    def watch_queue(self, length: Callable[[], float]) -> None:
        """Ask a function for the queue's length whenever the metrics are read."""
        self.queue.set_function(length)

    def count_batch(self, texts: int, tokens: int) -> None:
        """Count a batch."""
        self.texts.inc(texts)
        self.tokens.inc(tokens)
        self.batch.observe(texts)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)
