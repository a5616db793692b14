"""Typed options of attention analysis."""

from __future__ import annotations

from pydantic import Field

from embedding_adaptation.options import Options


class AttentionOptions(Options):
    """All options of attention analysis."""

    max_texts: int = Field(100, ge=1, description="Texts drawn at random from the labelled texts.")
    seed: int = Field(ge=0, description="Seed of the draw.")
