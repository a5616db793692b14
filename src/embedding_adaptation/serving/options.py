"""Limits of the server: what a request may hold, how much is computed at once, and how much may wait."""

from __future__ import annotations

from pydantic import Field

from embedding_adaptation.options import Options


class ServingOptions(Options):
    """Limits and batching of the server; every field is an option of ``python -m embedding_adaptation.serving``."""

    max_texts: int = Field(2048, ge=1, description="Texts of one request.")
    max_characters: int = Field(1_000_000, ge=1, description="Characters of one request, over all its texts.")
    max_bytes: int = Field(8 * 2**20, ge=1, description="Bytes of one request's body.")
    batch_texts: int = Field(64, ge=1, description="Texts embedded at once.")
    batch_tokens: int = Field(8192, ge=1, description="Tokens embedded at once; a longer text is embedded alone.")
    wait_ms: float = Field(2.0, ge=0.0, le=1000.0, description="How long the first text of a batch waits for others, in milliseconds.")
    queue_texts: int = Field(4096, ge=1, description="Texts that may wait; requests beyond are answered with status 503.")
    request_seconds: float = Field(60.0, gt=0.0, description="Seconds for a client to send a request; then its connection is closed.")
